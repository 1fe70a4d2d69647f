"""What this machine could do at best with one thread: how fast it reads, and how fast it multiplies."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import torch

_SIDE = 1024
_READ = 2**28  # bytes that no cache holds
_TRIES = 5


def measure_limits(*, side: int = _SIDE, num_bytes: int = _READ) -> dict[str, float]:
    """GB/s of reading, and 10^9 operations per second of products of square matrices."""
    numbers = torch.ones(num_bytes // 4)
    limits = {"read_gb_s": numbers.nbytes / _least(lambda: torch.dot(numbers, numbers)) / 1e9}
    operations = 2 * side**3 / 1e9
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        matrix = torch.ones(side, side).to(dtype)
        runs: list[Callable[[], object]] = [partial(torch.mm, matrix, matrix)]
        if torch.backends.mkldnn.is_available():  # in oneDNN's own layout fp32 is quicker on many CPUs
            packed = torch.ops.mkldnn._reorder_linear_weight(matrix)
            runs.append(partial(torch.ops.mkldnn._linear_pointwise, matrix, packed, None, "none", [], ""))
        limits[f"{name}_gflop_s"] = operations / min(map(_least, runs))
    integers = torch.ones(side, side, dtype=torch.int8)
    limits["int8_gop_s"] = operations / _least(lambda: torch._int_mm(integers, integers))
    return limits


def _least(run: Callable[[], object]) -> float:
    """CPU seconds of the quickest of some runs, after one that prepares."""
    run()
    times = []
    for _ in range(_TRIES):
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    return min(times)
