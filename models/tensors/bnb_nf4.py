"""bitsandbytes' 4-bit numbers, made on a CPU: the very bits that bitsandbytes 0.50 makes, many times faster.

bitsandbytes has no CPU kernel for this and lets torch search the levels for each value, over several copies of the
whole matrix. Here a piece of the matrix that fits a CPU's cache is compared with one limit between two levels after the
other, which is done with vector instructions; or compiled code does the same ten times as fast (models/native).
"""

from __future__ import annotations

import sys
from functools import cache

import torch
from torch import Tensor

from models.native.block_codes import CODE_BLOCK, FORMATS, block_codes
from models.tensors.loading_threads import spread

# Values at a time: a multiple of every block's size, and so few that torch leaves each operation to the calling thread.
# Its threads wait for each other in every one, which on a busy machine costs ten times what they save.
_PIECE = 7 * 2**12
_LARGE_PIECE = 2**20  # for compiled code, which makes no copies
_LEAST = 1e-38  # a block of zeros is divided by this


@cache
def install() -> torch.library.Library:
    """Let bitsandbytes, which must have been imported, quantize to 4 bits on a CPU with `quantize`, as long as what is
    returned is kept (here: as long as the process lives)."""
    library = torch.library.Library("bitsandbytes", "IMPL")
    library.impl("quantize_4bit", quantize, "CPU")
    return library


def quantize(weights: Tensor, block: int, kind: str, storage: torch.dtype) -> tuple[Tensor, Tensor]:
    """Weights of any shape -> two values a byte, [bytes / size of `storage`, 1], and each block's scale in fp32.

    `block` values, one after the other, share a scale: the largest of them. `kind` is `nf4` or `fp4`. The same, bit by
    bit, as bitsandbytes' own (backends/default/ops.py), also of what is NaN or infinite.
    """
    limits, order = _limits(kind)
    values = weights.reshape(-1)
    whole = values.numel() - values.numel() % block
    scales = torch.empty(-(-values.numel() // block), dtype=torch.float32)
    packed = torch.empty((values.numel() + 1) // 2, dtype=torch.uint8)

    native = block_codes() if block == CODE_BLOCK and values.dtype in FORMATS else None
    size = _PIECE if native is None else _LARGE_PIECE

    @torch.inference_mode()  # a thread does not inherit its caller's
    def quantize_piece(start: int) -> None:
        if native is not None:
            here = values[start : min(start + size, whole)]
            native.write(here, limits, packed[start // 2 :], scales[start // block :])
            return
        blocks = values[start : min(start + _PIECE, whole)].float().view(-1, block)
        largest = scales[start // block :][: len(blocks)]
        torch.amax(blocks.abs(), dim=-1, out=largest)
        scaled = blocks * (1.0 / largest.clamp(min=_LEAST)).unsqueeze(-1)
        _pack(scaled.view(-1), limits, packed[start // 2 :])

    spread(quantize_piece, range(0, whole, size))
    if whole < values.numel():
        rest = values[whole:].float()
        scales[-1] = rest.abs().max().clamp(min=_LEAST)
        scaled = (rest / scales[-1]).clamp(-1, 1)
        _pack(scaled if len(rest) % 2 == 0 else torch.cat((scaled, scaled.new_zeros(1))), limits, packed[whole // 2 :])
    if order is not None:
        packed = order[packed.int()]
    return packed.view(storage).unsqueeze(1), scales


def _pack(scaled: Tensor, limits: list[float], packed: Tensor) -> None:
    """Write the ranks of values within -1 and 1 among the limits to the beginning of `packed`, two a byte."""
    ranks = torch.full(scaled.shape, float(len(limits)))
    is_below = torch.empty(scaled.shape)  # 1 or 0: to bool, torch compares four times as slowly
    for limit in limits:
        torch.le(scaled, limit, out=is_below)  # 0 for NaN, whose rank is the last
        ranks.sub_(is_below)
    pairs = ranks.to(torch.uint8).view(torch.int16)
    first, second = (pairs << 4, pairs >> 8) if sys.byteorder == "little" else (pairs >> 4, pairs)
    packed[: len(pairs)].copy_(first | second)


@cache
def _limits(kind: str) -> tuple[list[float], Tensor | None]:
    """The 15 limits between levels, in order, and what becomes of a byte of two ranks (None: it stays)."""
    from bitsandbytes.functional import get_4bit_type

    levels = get_4bit_type(kind, device="cpu")
    order = torch.argsort(levels)
    limits = ((levels[order[:-1]] + levels[order[1:]]) / 2).tolist()
    if torch.equal(order, torch.arange(len(levels))):
        return limits, None
    codes = order.to(torch.uint8)
    return limits, ((codes << 4).unsqueeze(1) | codes).view(-1)
