"""Linear layers with bitsandbytes' 4-bit weights (nf4) on a CPU, which are never all there at full size.

Compiled code makes integers of a few rows at a time and multiplies all tokens with them (models/native). Without it,
CPUs with bfloat16 instructions have a product of bitsandbytes' that reads the codes where they are. Elsewhere a piece
of the matrix that a core's own cache holds is written out and multiplied, then the next; for many tokens as integers,
where this CPU multiplies these faster. N outputs, K inputs, T tokens.
"""

from __future__ import annotations

import time
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.native.block_codes import block_codes
from models.native.integer_products import WIDE, integer_products
from models.quantized.eight_bits import as_integers, has_exact_integers, largest_of
from models.tensors.bnb_int8 import LEVELS

BLOCK = 64  # weights that share one scale
_TILE = 2**18  # weights that are written out at a time: 1 MiB in fp32
_MANY = 32  # tokens from which on rounding weights to integers pays
_FASTER = 1.5  # so many times as fast must products of integers be


class FourBitLinear(nn.Module):
    """`nn.Linear` for inference, [..., K] -> [..., N], of weights that bitsandbytes has quantized.

    `codes` are two weights a byte, row after row, `scales` [N K / 64] those of each 64 of them. `is_fused`: by
    bitsandbytes' product or compiled code, where the sizes are theirs (all released models'). Both round scales to
    bfloat16; the first rounds inputs to bfloat16, too, the other to 8 bits, and weights to 8 bits by rows.
    """

    def __init__(
        self, codes: Tensor, scales: Tensor, shape: torch.Size, bias: Tensor | None, *, is_fused: bool
    ) -> None:
        super().__init__()
        self.out_features, self.in_features = shape
        self.bias = None if bias is None else nn.Parameter(bias.detach().float(), requires_grad=False)
        self._native = integer_products()
        is_fused = is_fused or self._native is not None
        self.is_fused = is_fused and self.out_features % WIDE == 0 and self.in_features % BLOCK == 0
        codes = codes.view(torch.uint8).view(-1)
        if self.is_fused:
            codes = _fused_layout(codes, shape)
            scales = scales.view(self.out_features, -1).T.bfloat16().contiguous()
        self.codes, self.scales = (nn.Parameter(tensor, requires_grad=False) for tensor in (codes, scales))

    def forward(self, inputs: Tensor) -> Tensor:
        """See the class."""
        tokens = inputs.reshape(-1, self.in_features)
        if self.is_fused and self._native is not None:
            output = self._native.four_bits(tokens, self.codes, self.scales, levels_in_16_bits(), self.bias)
        else:
            output = self._fused(tokens) if self.is_fused else self._by_tiles(tokens.float())
            if self.bias is not None:
                output += self.bias
        return output.to(inputs.dtype).view(*inputs.shape[:-1], self.out_features)

    def _fused(self, tokens: Tensor) -> Tensor:
        output: Tensor = torch.ops.bitsandbytes.gemv_4bit.default(
            tokens, self.codes, (self.out_features, self.in_features), self.scales, levels(), BLOCK
        )
        return output

    def _by_tiles(self, tokens: Tensor) -> Tensor:
        """Tokens [T, K] fp32 -> [T, N]."""
        if self.in_features % BLOCK:  # blocks run on from row to row
            return functional.linear(tokens, self._numbers(0, self.out_features))
        output = tokens.new_empty(len(tokens), self.out_features)
        is_integer = len(tokens) >= _MANY and multiplies_integers_faster()
        if is_integer:
            largest = largest_of(tokens)
            tokens = as_integers(tokens, largest)
        rows = max(1, _TILE // self.in_features)
        for start in range(0, self.out_features, rows):
            place = output[:, start : start + rows]
            weight = self._numbers(start, start + place.shape[1])
            if is_integer:
                size = largest_of(weight)
                integers = weight.mul_(LEVELS / size).round_().to(torch.int8)
                place.copy_(torch._int_mm(tokens, integers.T)).mul_(size.view(-1) / LEVELS**2)
            else:
                place.copy_(functional.linear(tokens, weight))
        return output.mul_(largest) if is_integer else output

    def _numbers(self, start: int, end: int) -> Tensor:
        """The weights of some rows in fp32, [rows, K].

        As a single row: at some widths that are no multiple of a block bitsandbytes 0.50 takes wrong scales for several
        (an error of 0.25 to 0.3 of the size of 128 x 352 weights, instead of 0.09).
        """
        width, count = self.in_features, (end - start) * self.in_features
        codes = self.codes[start * width // 2 : (end * width + 1) // 2]
        scales = self.scales[start * width // BLOCK : -(-end * width // BLOCK)]
        numbers: Tensor = torch.ops.bitsandbytes.dequantize_4bit.default(
            codes, scales, BLOCK, "nf4", (1, count), torch.float32
        )
        return numbers.view(-1, width)


@cache
def multiplies_integers_faster() -> bool:
    """Whether this CPU's products of integers are exact and well above those of fp32, which a measurement says."""
    if not has_exact_integers():
        return False
    numbers, weights = torch.randn(64, 1024), torch.randn(256, 1024)
    integers, small = (tensor.clamp(-3, 3).mul(40).to(torch.int8) for tensor in (numbers, weights))

    def seconds(integer: bool) -> float:
        start = time.perf_counter()
        for _ in range(3):
            torch._int_mm(integers, small.T) if integer else functional.linear(numbers, weights)
        return time.perf_counter() - start

    taken = [[seconds(integer) for integer in (True, False)] for _ in range(5)]
    return min(fast for fast, _ in taken) * _FASTER < min(slow for _, slow in taken)


@cache
def levels() -> Tensor:
    """The 16 numbers that codes stand for."""
    from bitsandbytes.functional import get_4bit_type

    found: Tensor = get_4bit_type("nf4", device="cpu")
    return found


@cache
def levels_in_16_bits() -> Tensor:
    """The same times 2^15."""
    return (levels() * 2**15).round().clamp(max=2**15 - 1).to(torch.int16)


def _fused_layout(codes: Tensor, shape: torch.Size) -> Tensor:
    """Codes in the order of bitsandbytes' product: what its `_convert_weight_packed_for_cpu` gives, [N, K / 2].

    Of 32 rows, each byte there has a code of one of the first 16 and, above it, the same column's of the row 16 later.
    """
    if (native := block_codes()) is not None:
        return native.laid_out(codes, shape)
    first, later = codes.view(-1, 2, WIDE // 2, shape[1] // 2).transpose(2, 3).unbind(1)  # [N / 32, K / 2, 16]
    even = (later & 0xF0) | (first >> 4)
    odd = (later << 4) | (first & 0x0F)
    return torch.stack((even, odd), dim=-1).view(shape[0], -1)
