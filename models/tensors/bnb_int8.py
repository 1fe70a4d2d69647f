"""bitsandbytes' 8-bit numbers, made on a CPU: the very bits that bitsandbytes 0.50 makes, four times as fast."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from models.tensors.loading_threads import spread

LEVELS = 127  # of a number above zero
LEAST = 1e-30  # a row of zeros is divided by this
_PIECE = 7 * 2**12  # values at a time, so few that torch leaves each operation to the calling thread
_NAME = "int8_vectorwise_quant"


@cache
def install() -> torch.library.Library:
    """Let bitsandbytes, which must have been imported, make 8-bit weights on a CPU with `quantize`, as long as what is
    returned is kept (here: as long as the process lives). Its rounding of tokens, with a threshold, stays its own."""
    theirs = torch.library.get_kernel(f"bitsandbytes::{_NAME}", "CPU")
    keys = torch._C.DispatchKeySet(torch._C.DispatchKey.CPU)

    def kernel(rows: Tensor, threshold: float = 0.0) -> tuple[Tensor, Tensor, Tensor | None]:
        if threshold > 0 or rows.dim() != 2:
            found: tuple[Tensor, Tensor, Tensor | None] = theirs.call_boxed(keys, rows, threshold)
            return found
        return *quantize(rows), None

    library = torch.library.Library("bitsandbytes", "IMPL")
    library.impl(_NAME, kernel, "CPU")
    return library


def quantize(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Weights [N, K] of any format -> int8 [N, K], of which LEVELS stands for the largest of a row, and these [N]."""
    integers, largest = torch.empty(rows.shape, dtype=torch.int8), torch.empty(len(rows))
    count = max(1, _PIECE // rows.shape[1])

    @torch.inference_mode()  # a thread does not inherit its caller's
    def quantize_piece(start: int) -> None:
        round_rows(rows[start : start + count], integers[start : start + count], largest[start : start + count])

    spread(quantize_piece, range(0, len(rows), count))
    return integers, largest


def round_rows(rows: Tensor, integers: Tensor, largest: Tensor) -> None:
    """Write rows [n, K] as integers to [n, K] int8, and the largest number of each, without its sign, to [n] fp32."""
    numbers = rows.float()
    torch.amax(numbers.abs(), dim=1, out=largest)
    integers.copy_((numbers * (LEVELS / largest.clamp(min=LEAST)).unsqueeze(1)).round_())
