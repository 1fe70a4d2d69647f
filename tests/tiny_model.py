"""A tiny random vision-language model with a tokenizer of bytes, for tests of the engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from models.conversation import Sampling, Turn
from models.model_info import ModelInfo
from models.preprocessing import SquareResize
from models.prompt import PromptFormat
from models.vision_language_model import VisionLanguageModel

BOS, EOS, FIRST_BYTE = 1, 2, 3
FORMAT = PromptFormat(
    system="Look.###", user_prefix="Human: ", user_suffix="###", assistant_prefix="Assistant: ", stop_strings=("###",)
)
GREEDY = Sampling(temperature=0, repetition_penalty=1.0, max_new_tokens=24)


class ByteTokenizer:
    """Ids 0, 1, 2 are special; id 3 + b is the byte b."""

    bos_token_id, eos_token_id, pad_token_id = BOS, EOS, 0
    special_tokens: tuple[str, ...] = ()

    def __len__(self) -> int:
        return FIRST_BYTE + 256

    def encode(self, text: str, *, add_bos: bool = False) -> list[int]:
        return [BOS] * add_bos + [FIRST_BYTE + byte for byte in text.encode()]

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(i - FIRST_BYTE for i in ids if i >= FIRST_BYTE).decode(errors="replace")


class ScriptedLlama(LlamaForCausalLM):
    """A Llama that can be told which id follows which position, and can be broken."""

    script: Callable[[int], int] | None = None
    on_forward: Callable[[], None] | None = None

    def forward(self, *args: Any, logits_to_keep: int | Tensor = 0, **kwargs: Any) -> Any:
        if self.on_forward is not None:
            self.on_forward()
        output = super().forward(*args, logits_to_keep=logits_to_keep, **kwargs)
        if self.script is not None:
            if "position_ids" in kwargs:
                positions = kwargs["position_ids"]
            else:  # through `generate`
                positions = torch.arange(kwargs["attention_mask"].shape[1])[None, -output.logits.shape[1] :]
            kept = positions[:, logits_to_keep] if isinstance(logits_to_keep, Tensor) else positions
            output.logits.zero_()
            for logits, places in zip(output.logits, kept.tolist(), strict=True):
                for row, position in enumerate(places):
                    logits[row, self.script(position)] = 1.0
        return output


class TinyVision(nn.Module):
    """Pixel values [B, 3, 8, 8] -> features [B, 1 + 4, 12]: patches of 4x4, coarse."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 12, 4, stride=4)
        self.num_calls = 0

    def forward(self, pixel_values: Tensor) -> Tensor:
        self.num_calls += len(pixel_values)
        return self.patches(pixel_values).flatten(2).transpose(1, 2)


def tiny_model(
    *, context_tokens: int = 512, prompt_format: PromptFormat = FORMAT, seed: int = 0, **info: Any
) -> VisionLanguageModel:
    """Random weights (the same for the same seed), large enough that its answers look random."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(ByteTokenizer()),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        bos_token_id=BOS,
        eos_token_id=EOS,
        pad_token_id=0,
        initializer_range=0.4,
    )
    tower = TinyVision()
    return VisionLanguageModel(
        vision_tower=tower,
        vision_features=tower,
        connector=nn.Linear(12, 32),
        language_model=ScriptedLlama(config).eval(),
        tokenizer=ByteTokenizer(),
        image_processor=SquareResize(8),
        prompt_format=prompt_format,
        num_image_tokens=4,
        info=ModelInfo(name="Tiny", family="test", tasks=(), context_tokens=context_tokens, **info),
    )


def picture(seed: int) -> Image.Image:
    """A picture of random pixels."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (8, 8, 3), generator=generator, dtype=torch.uint8)
    return Image.fromarray(pixels.numpy())


def ask(text: str, *images: Image.Image) -> tuple[Turn, ...]:
    """A conversation of one question."""
    return (Turn("user", text, images),)


def say(model: VisionLanguageModel, prompt_tokens: int, text: str | bytes) -> None:
    """From now on the model answers prompts of this length with this text, then EOS."""
    ids = [FIRST_BYTE + byte for byte in (text.encode() if isinstance(text, str) else text)]

    def script(position: int) -> int:
        step = position - (prompt_tokens - 1)
        return ids[step] if 0 <= step < len(ids) else EOS

    assert isinstance(model.language_model, ScriptedLlama)
    model.language_model.script = script


def prompt_tokens(model: VisionLanguageModel, turns: Sequence[Turn]) -> int:
    """Length of a conversation's prompt."""
    return len(model.embed_prompt(turns))


@contextmanager
def quick_process() -> Iterator[None]:
    """One torch thread, as the tiny model needs no more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
