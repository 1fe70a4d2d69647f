"""Attention of many queries in bfloat16, in C: many_queries.c says how.

B rows, H heads, K key and value heads, Q queries, L keys, D head width.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from models.native.compiled import library_or_none

FEWEST_QUERIES = 16  # with fewer, laying out keys and values takes longer than what it gains


class _Attention(ctypes.Structure):
    """`Attention` of many_queries.c."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("queries", "keys", "values", "mask", "out")),
        *((name, ctypes.c_int64) for name in ("heads", "sharing", "num_queries", "num_keys", "width")),
        *((name, ctypes.c_int64) for name in ("query_head", "query_row", "key_head", "key_row")),
        *((name, ctypes.c_int64) for name in ("value_head", "value_row", "mask_row")),
        ("scale", ctypes.c_float),
    )


@dataclass(frozen=True)
class ManyQueries:
    """The compiled functions."""

    functions: ctypes.CDLL

    def takes(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> bool:
        """Whether these are many queries in formats and forms that it reads."""
        tensors = (query, key, value, *(() if mask is None else (mask,)))
        is_read = all(tensor.dtype == torch.bfloat16 and tensor.stride(-1) == 1 for tensor in tensors)
        has_own_mask = mask is None or (
            mask.dim() == 4 and mask.shape[:2] == (1, 1) and mask.shape[2] == query.shape[2]
        )
        width, heads = query.shape[3], query.shape[1]
        fits = width % 2 == 0 and value.shape[3] == width and heads % key.shape[1] == 0
        return is_read and has_own_mask and fits and query.shape[2] >= FEWEST_QUERIES and not query.requires_grad

    def attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float) -> Tensor:
        """[B, H, Q, D], with keys and values [B, K, L, D] and a mask [1, 1, Q, L] for the scores; see `takes`."""
        rows, heads, num_queries, width = query.shape
        out = torch.empty(rows, num_queries, heads, width)
        threads = torch.get_num_threads()
        for row in range(rows):
            sides = [side[row] for side in (query, key, value)]
            given = _Attention(
                *(side.data_ptr() for side in sides), None if mask is None else mask.data_ptr(), out[row].data_ptr(),
                heads, heads // key.shape[1], num_queries, key.shape[2], width,
                *(side.stride(dim) for side in sides for dim in (0, 1)), 0 if mask is None else mask.stride(2), scale,
            )  # fmt: skip
            memory = torch.empty(threads, self.functions.room(ctypes.byref(given)), dtype=torch.uint8)
            self.functions.attend_many(ctypes.byref(given), ctypes.c_void_p(memory.data_ptr()), threads)
        return out.to(query.dtype).transpose(1, 2)


@cache
def many_queries() -> ManyQueries | None:
    """The functions; None where this processor hasn't the instructions, or there is no compiled code."""
    if not torch.cpu._is_avx512_bf16_supported():
        return None
    functions = library_or_none(Path(__file__).with_suffix(".c"))
    if functions is None:
        return None
    functions.room.restype = ctypes.c_int64
    return ManyQueries(functions)
