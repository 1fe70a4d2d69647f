"""The library's steps in C, on a CPU: those that read prompts, beside answers or alone.

Q tokens of the step, R requests that get a token, V vocabulary.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from transformers.generation.continuous_batching.cache import PagedAttentionCache
from transformers.modeling_outputs import CausalLMOutput

from engine.batching.broken_tokens import BrokenTokens
from engine.batching.paged_cache import plain_pages, token_rows
from engine.native.native_step import NativeStep
from engine.native.operations import MOST_CHATS
from engine.native.prompt_pieces import ReadChat, pieces


class NativePrompts:
    """In the place of a model for the library's steps: computes in C what can be, and leaves the rest to the model."""

    def __init__(self, model: nn.Module, native: NativeStep, cache: PagedAttentionCache, broken: BrokenTokens) -> None:
        self._model, self._native, self._broken = model, native, broken
        allocator = plain_pages(cache)
        assert allocator is not None  # see can_decode_steadily
        pages = [side for _, sides in sorted(token_rows(allocator).items()) for side in sides]
        self._is_bf16 = pages[0].dtype == torch.bfloat16
        self._pages = (ctypes.c_void_p * len(pages))(*(side.data_ptr() for side in pages))
        self.num_tokens = 0  # read here since the start

    def __call__(self, **step: Any) -> CausalLMOutput:
        """The logits [1, R, V] of the tokens `logits_to_keep`, from the arguments that the library gives a model."""
        kept = step["logits_to_keep"].tolist()
        if not self._native.reads or len(kept) > MOST_CHATS:
            output: CausalLMOutput = self._model(**step)
            return output
        ids, positions = step["input_ids"][0].tolist(), step["position_ids"][0].tolist()
        rows = step["read_index"][0] if step["read_index"][0].numel() else step["write_index"][0]
        chats = _chats(step)
        logits = torch.empty(len(kept), self._native.num_outputs)
        are_broken: list[Tensor] = []
        for piece, places in pieces(ids, positions, chats, kept):
            read = self._native.read(piece, rows, self._pages, is_bf16=self._is_bf16)
            logits[places] = read.logits
            are_broken.append(read.are_broken)
        self._broken.note(torch.cat(are_broken))
        self.num_tokens += len(ids)
        return CausalLMOutput(logits=logits.unsqueeze(0))


def _chats(step: Mapping[str, Any]) -> list[ReadChat]:
    """Of the library's arguments."""
    (ends,) = step["cu_seq_lens_k"].values()
    keys, queries = pairwise(ends.tolist()), pairwise(step["cu_seq_lens_q"].tolist())
    return [ReadChat(*query, key, end - key) for query, (key, end) in zip(queries, keys, strict=True)]
