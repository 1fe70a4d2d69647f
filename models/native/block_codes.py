"""4-bit codes of weights and their layout for CPUs, in C: block_codes.c says how."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from models.native.compiled import address, library_or_none

CODE_BLOCK = 64  # weights that share a scale
FORMATS = (torch.float32, torch.bfloat16, torch.float16)  # that are read, as C numbers them


@dataclass(frozen=True)
class BlockCodes:
    """The compiled functions."""

    functions: ctypes.CDLL

    def write(self, values: Tensor, limits: Sequence[float], packed: Tensor, scales: Tensor) -> None:
        """Write the ranks of whole blocks of values among 15 limits, two a byte, and their scales, to the beginning of
        `packed` and `scales`."""
        numbers, count = (ctypes.c_float * 16)(*limits), ctypes.c_int64(len(values) // CODE_BLOCK)
        number_format = FORMATS.index(values.dtype)
        self.functions.block_codes(address(values), number_format, count, numbers, address(packed), address(scales))

    def laid_out(self, codes: Tensor, shape: torch.Size) -> Tensor:
        """Codes of a matrix [N, K], row after row, as bitsandbytes lays them out for CPUs: [N, K / 2]."""
        out = torch.empty(shape[0], shape[1] // 2, dtype=torch.uint8)
        self.functions.lay_out(address(codes), ctypes.c_int64(shape[0]), ctypes.c_int64(shape[1] // 2), address(out))
        return out


@cache
def block_codes() -> BlockCodes | None:
    """The functions; None where there is no compiled code."""
    functions = library_or_none(Path(__file__).with_suffix(".c"))
    return None if functions is None else BlockCodes(functions)
