"""Vision-language models with random weights: every backbone the families use, at any size, made on the device.

Their tokenizer writes each id as one character and reads it back as the same id, so that answers can go back into a
conversation token by token, and equal texts mean equal tokens.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import nn
from transformers import (
    CLIPVisionConfig,
    GemmaConfig,
    GemmaForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedModel,
)
from transformers.initialization import no_init_weights

from models.conversation import Turn
from models.model_info import ModelInfo
from models.parts.connectors import PatchMergeProjector
from models.parts.llava_vision import CutClip, MlpProjector, PatchTower
from models.parts.phi import PostNormPhiForCausalLM, phi_config
from models.parts.sparse_decoders import (
    SparseMistralConfig,
    SparseMistralForCausalLM,
    SparsePhiConfig,
    SparsePhiForCausalLM,
    SparseQwen2Config,
    SparseQwen2ForCausalLM,
    SparseStableLmConfig,
    SparseStableLmForCausalLM,
)
from models.parts.sparse_moe import SparseLayers
from models.preprocessing import SquareResize
from models.prompt import PromptFormat
from models.vision_language_model import VisionLanguageModel

BOS, EOS, FIRST_LETTER = 1, 2, 3
_BASE = 0x3400  # from here on 44,000 code points are letters that no code strips or joins
FORMAT = PromptFormat(
    system="Look at the image. ", user_prefix="USER: ", assistant_prefix=" ASSISTANT: ", assistant_suffix=" "
)


@dataclass(frozen=True, kw_only=True)
class ModelSize:
    """Sizes of a model. Every second layer of a sparse backbone has `num_experts` experts (0: it is dense).

    `merge` patches of the vision tower (a CLIP) become one image token.
    """

    hidden: int = 768
    inner: int = 2048
    layers: int = 12
    heads: int = 12
    key_value_heads: int = 12
    vocabulary: int = 32000
    num_experts: int = 4
    vision_hidden: int = 768
    vision_inner: int = 3072
    vision_layers: int = 12
    vision_heads: int = 12
    image: int = 224
    merge: int = 8  # 32 tokens per image, as many as MiniGPT-4's

    @property
    def image_tokens(self) -> int:
        """Tokens per image."""
        return (self.image // 14) ** 2 // self.merge


STANDARD = ModelSize()  # 134 million parameters as a Llama
SMALL = ModelSize(
    hidden=64, inner=96, layers=2, heads=4, key_value_heads=4, vocabulary=400,
    vision_hidden=32, vision_inner=48, vision_layers=2, vision_heads=2, image=56, merge=4,
)  # fmt: skip


class LetterTokenizer:
    """Id i is the character U+3400 + i; ASCII is read as ids of its own and written back as such characters."""

    bos_token_id, eos_token_id, pad_token_id = BOS, EOS, 0
    special_tokens: tuple[str, ...] = ()

    def __init__(self, size: int) -> None:
        self._size = size

    def __len__(self) -> int:
        return self._size

    def encode(self, text: str, *, add_bos: bool = False) -> list[int]:
        """See models.vision_language_model.Tokenizer."""
        letters = (ord(letter) for letter in text)
        return [BOS] * add_bos + [FIRST_LETTER + n if n < 128 else n - _BASE for n in letters]

    def decode(self, ids: Sequence[int]) -> str:
        """See models.vision_language_model.Tokenizer."""
        return "".join(chr(_BASE + i) for i in ids if i >= FIRST_LETTER)


def _llama(_: ModelSize, common: dict[str, Any]) -> PreTrainedModel:
    return LlamaForCausalLM(LlamaConfig(**common))


def _gemma(_: ModelSize, common: dict[str, Any]) -> PreTrainedModel:
    head = common["hidden_size"] // common["num_attention_heads"]
    return GemmaForCausalLM(GemmaConfig(**{**common, "num_key_value_heads": 1, "head_dim": head}))


def _phi(size: ModelSize, common: dict[str, Any]) -> PreTrainedModel:
    values = {**common, "intermediate_size": size.inner * 3 // 2, "partial_rotary_factor": 0.5}
    return PostNormPhiForCausalLM(phi_config(values))


def _mixtral(size: ModelSize, common: dict[str, Any]) -> PreTrainedModel:
    values = {**common, "num_local_experts": size.num_experts or 1, "sliding_window": None}
    return MixtralForCausalLM(MixtralConfig(**values))


def _sparse(model_class: type[PreTrainedModel], config_class: Callable[..., Any], **more: Any) -> Any:
    def build(size: ModelSize, common: dict[str, Any]) -> PreTrainedModel:
        indices = tuple(range(0, size.layers, 2)) if size.num_experts else ()
        layers = SparseLayers(indices=indices, num_experts=(size.num_experts,) * len(indices), eval_capacity_factor=2.0)
        config = config_class(**{**common, **more})
        config.sparse_layers = dataclasses.asdict(layers)
        return model_class(config)

    return build


BACKBONES: dict[str, Callable[[ModelSize, dict[str, Any]], PreTrainedModel]] = {
    "llama": _llama,
    "gemma": _gemma,
    "phi": _phi,
    "mixtral": _mixtral,
    "sparse_phi": _sparse(SparsePhiForCausalLM, SparsePhiConfig, partial_rotary_factor=0.5),
    "sparse_stablelm": _sparse(SparseStableLmForCausalLM, SparseStableLmConfig, use_qkv_bias=True),
    "sparse_qwen2": _sparse(SparseQwen2ForCausalLM, SparseQwen2Config),
    "sparse_mistral": _sparse(SparseMistralForCausalLM, SparseMistralConfig, sliding_window=None),
}


def language_model_of(backbone: str, size: ModelSize, *, context_tokens: int) -> PreTrainedModel:
    """The language model of a backbone, wherever modules are made now."""
    common: dict[str, Any] = {
        "vocab_size": size.vocabulary,
        "hidden_size": size.hidden,
        "intermediate_size": size.inner,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "num_key_value_heads": size.key_value_heads,
        "max_position_embeddings": 2 * context_tokens,
        "bos_token_id": BOS,
        "eos_token_id": EOS,
        "pad_token_id": 0,
    }
    return BACKBONES[backbone](size, common)


def random_model(
    backbone: str,
    size: ModelSize = STANDARD,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    context_tokens: int = 2048,
    seed: int = 0,
) -> VisionLanguageModel:
    """A model whose greedy answers look random (weights large enough that no two tokens are nearly tied)."""
    vision = CLIPVisionConfig(
        hidden_size=size.vision_hidden,
        intermediate_size=size.vision_inner,
        num_hidden_layers=size.vision_layers,
        num_attention_heads=size.vision_heads,
        image_size=size.image,
        patch_size=14,
    )
    projector: type[nn.Module] = MlpProjector if size.merge == 1 else PatchMergeProjector
    options = {} if size.merge == 1 else {"merge": size.merge}
    with _made_on(device, dtype):
        language_model = language_model_of(backbone, size, context_tokens=context_tokens)
        # PatchMergeProjector drops CLS itself.
        tower = PatchTower(CutClip(vision), drops_first=size.merge == 1)
        connector = projector(vision_width=size.vision_hidden, text_width=size.hidden, **options)
    fill((language_model, tower, connector), seed=seed, device=device)
    name = f"{backbone} {sum(p.numel() for p in language_model.parameters()) / 1e6:.0f} M"
    return VisionLanguageModel(
        vision_tower=tower,
        vision_features=tower.features,
        connector=connector,
        language_model=language_model,
        tokenizer=LetterTokenizer(size.vocabulary),
        image_processor=SquareResize(size.image),
        prompt_format=FORMAT,
        num_image_tokens=size.image_tokens,
        embed_scale=size.hidden**0.5 if backbone == "gemma" else 1.0,
        info=ModelInfo(
            name=name, family="random", tasks=(), context_tokens=context_tokens,
            device=str(device), dtype=str(dtype).removeprefix("torch."),
        ),
    )  # fmt: skip


@contextmanager
def _made_on(device: torch.device | str, dtype: torch.dtype) -> Iterator[None]:
    """Modules are made on the device, in the number format, without drawing values that `fill` draws anyway."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device), no_init_weights():
            yield
    finally:
        torch.set_default_dtype(before)


@torch.no_grad()
def fill(modules: Sequence[nn.Module], *, seed: int, device: torch.device | str) -> None:
    """Draw every weight: matrices so that a layer keeps the size of its input, norms 1, biases small."""
    generator = torch.Generator(device).manual_seed(seed)
    for module in (inner for outer in modules for inner in outer.modules()):
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.dim() > 1:
                reach = (3 / parameter.shape[-1]) ** 0.5
                parameter.uniform_(-reach, reach, generator=generator)
            elif "norm" in type(module).__name__.lower() and name == "weight":
                parameter.fill_(1)
            else:
                parameter.uniform_(-0.02, 0.02, generator=generator)


def picture(seed: int, size: int = 64) -> Image.Image:
    """A picture of random pixels."""
    pixels = torch.randint(0, 256, (size, size, 3), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    return Image.fromarray(pixels.numpy())


def words(count: int, seed: int) -> str:
    """Random lower-case letters, one token each."""
    letters = torch.randint(97, 123, (count,), generator=torch.Generator().manual_seed(seed))
    return "".join(map(chr, letters.tolist()))


def question(length: int, seed: int, *images: Image.Image) -> Turn:
    """A question of so many tokens."""
    return Turn("user", words(length, seed), images)
