"""This program, asked as its peers are: `python -m benchmarks.peers.ours_peer WEIGHTS OWN PRECISION`."""

from __future__ import annotations

import dataclasses
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from benchmarks.chats import greedy
from benchmarks.peers.peer_process import Ids, serve
from benchmarks.peers.tensors import settings
from benchmarks.random_models import BOS, SMALL, random_model
from engine.chat_engine import ChatEngine
from models.conversation import Turn
from models.loader import materialise
from models.prompt import PromptFormat
from models.tensors.weights import Part
from models.vision_language_model import VisionLanguageModel

DTYPES = {"fp32": torch.float32, "16bit": torch.bfloat16, "8bit": torch.bfloat16, "4bit": torch.bfloat16}
_CONTEXT = 2048


class Ours:
    """The engine as the page has it, with a conversation format that adds nothing."""

    def __init__(self, weights: Path, precision: str) -> None:
        self._model = load(weights, precision)
        self._engine = ChatEngine(self._model, max_concurrent=8).start()

    def generate(self, prompts: Sequence[Ids], new: int) -> list[Ids]:
        """See Peer. An answer is shorter where the likeliest token ends it."""
        found: dict[int, Ids] = {}
        threads = [
            threading.Thread(target=self._answer, args=(index, prompt, new, found))
            for index, prompt in enumerate(prompts)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return [found[index] for index in range(len(prompts))]

    def _answer(self, index: int, prompt: Ids, new: int, found: dict[int, Ids]) -> None:
        if prompt[0] != BOS:
            raise ValueError("A prompt begins with BOS.")
        turns = [Turn("user", self._model.tokenizer.decode(prompt[1:]))]
        *_, answer = self._engine.stream(turns, greedy(new))
        if answer.num_prompt_tokens != len(prompt):
            raise ValueError(f"{answer.num_prompt_tokens} tokens were read of a prompt of {len(prompt)}.")
        found[index] = self._model.tokenizer.encode(answer.text)


def load(weights: Path, precision: str) -> VisionLanguageModel:
    """The weights in the place of a small random model's language model."""
    config, dtype = LlamaConfig(**settings(weights)), DTYPES[precision]
    part = Part(
        name="language model", source=str(weights), module_class=LlamaForCausalLM, config=config, 
        tensors=load_file(weights / "model.safetensors"),
        is_quantizable=True,
    )  # fmt: skip
    quantization = precision if precision in ("8bit", "4bit") else "none"
    module = materialise(part, device=torch.device("cpu"), dtype=dtype, quantization=quantization).eval()
    size = dataclasses.replace(SMALL, vocabulary=config.vocab_size, hidden=config.hidden_size, layers=1)
    model = random_model("llama", size, dtype=dtype, context_tokens=_CONTEXT)
    model.language_model = cast(PreTrainedModel, module.requires_grad_(False))
    model.prompt_format = PromptFormat(user_prefix="", assistant_prefix="")
    return model


def main(weights: Path, precision: str) -> None:
    """Answer."""
    torch.set_num_threads(1)
    serve(lambda: None, lambda: Ours(weights, precision))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[3])
