"""Products of tokens with weights of 8 and 4 bits in one go: rounding the tokens, integers, scales, bias, format.

integer_products.c says how. T tokens, N outputs, K inputs.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from models.native.compiled import address, library_or_none

WIDE = 32  # N is a multiple of it
BLOCK = 64  # K is a multiple of it
_FORMATS = (torch.float32, torch.bfloat16)


class _Tokens(ctypes.Structure):
    """`Tokens` of integer_products.c."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("rows", "sums", "sizes", "rests")),
        *((name, ctypes.c_int64) for name in ("tokens", "num_rows", "k")),
    )


class _Results(ctypes.Structure):
    """`Results` of integer_products.c."""

    _fields_ = (("numbers", ctypes.c_void_p), ("stride", ctypes.c_int64), ("is_bf16", ctypes.c_int32),
                ("is_adding", ctypes.c_int32))  # fmt: skip


@dataclass(frozen=True)
class IntegerProducts:
    """The compiled functions."""

    functions: ctypes.CDLL

    def four_bits(self, tokens: Tensor, codes: Tensor, scales: Tensor, levels: Tensor, bias: Tensor | None) -> Tensor:
        """Tokens [T, K] -> [T, N] in their format, of codes in bitsandbytes' layout for CPUs, scales [K / 64, N] bf16,
        levels [16] int16 (times 2^15) and a bias [N] fp32."""
        return self._run("four_bits", tokens, scales.shape[1], (codes, scales, levels, bias))

    def eight_bits(self, tokens: Tensor, weights: int, scales: Tensor, bias: Tensor | None) -> Tensor:
        """The same of weights at an address, in oneDNN's layout, and of scales and a bias [N] fp32."""
        return self._run("eight_bits", tokens, len(scales), (weights, scales, bias))

    @property
    def four_bits_address(self) -> int | None:
        """Where C finds the function."""
        return ctypes.cast(self.functions.four_bits, ctypes.c_void_p).value

    def _run(self, name: str, tokens: Tensor, outputs: int, about: tuple[Tensor | int | None, ...]) -> Tensor:
        if tokens.dtype not in _FORMATS:
            return self._run(name, tokens.float(), outputs, about).to(tokens.dtype)
        tokens, is_bf16 = tokens.contiguous(), tokens.dtype == torch.bfloat16
        count, inputs = tokens.shape
        out = torch.empty(count, outputs, dtype=tokens.dtype)
        if not count:
            return out
        rows = torch.empty(2 * count, inputs, dtype=torch.int8)
        sums, rests = torch.empty(2 * count, dtype=torch.int32), torch.empty(count, dtype=torch.int32)
        sizes, buffer = torch.empty(2 * count), torch.empty(inputs)
        places = (rows, sums, sizes, rests)
        num_rows = self.functions.round_tokens(
            address(tokens),
            is_bf16,
            ctypes.c_int64(count),
            ctypes.c_int64(inputs),
            address(buffer),
            *map(address, places),
        )
        threads = torch.get_num_threads()
        found = torch.empty(threads, num_rows, WIDE, dtype=torch.int32)
        given = _Tokens(*(place.data_ptr() for place in places), count, num_rows, inputs)
        getattr(self.functions, name)(
            ctypes.byref(given),
            *map(address, about),
            ctypes.c_int64(outputs),
            address(found),
            ctypes.byref(_Results(out.data_ptr(), outputs, is_bf16, False)),
            threads,
        )
        return out


def address_of(packed: Tensor) -> int | None:
    """Where weights [K, N] int8 in oneDNN's layout are; None where the sizes are not the functions'."""
    inputs, outputs = packed.shape
    if inputs % BLOCK or outputs % (2 * WIDE):
        return None
    return int(torch.ops.mkldnn.data_ptr(packed))


@cache
def integer_products() -> IntegerProducts | None:
    """The functions; None where this processor hasn't the instructions, or there is no compiled code."""
    if not torch.cpu._is_vnni_supported():
        return None
    functions = library_or_none(Path(__file__).with_suffix(".c"))
    if functions is None:
        return None
    found = IntegerProducts(functions)
    return found if _is_right(found) else None


def _is_right(products: IntegerProducts) -> bool:
    """Whether 8-bit weights lie as the functions read them, which is oneDNN's own affair."""
    numbers = torch.Generator().manual_seed(0)
    weights = torch.randint(-127, 128, (2 * WIDE * 3, BLOCK * 9), dtype=torch.int8, generator=numbers)
    tokens, scales = torch.randn(14, BLOCK * 9, generator=numbers), torch.rand(len(weights), generator=numbers)
    try:
        packed = torch.ops.onednn.qlinear_prepack(weights, None)
        weights_at = address_of(packed)
    except (RuntimeError, AttributeError):  # not in this build of torch
        return False
    # Besides the weights, oneDNN keeps a sum of each output's.
    if weights_at is None or torch.ops.mkldnn._nbytes(packed) not in (
        weights.numel(),
        weights.numel() + 4 * len(weights),
    ):
        return False
    found, expected = (
        products.eight_bits(tokens, weights_at, scales, None),
        tokens @ (weights.float() * scales[:, None]).T,
    )
    return bool((found - expected).norm() < 0.02 * expected.norm())
