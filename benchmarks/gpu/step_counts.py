"""What a decode step asks of a GPU: kernels and graphs that are launched, and how often the host waits."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch

_LAUNCHES = ("cudaLaunchKernel", "cudaLaunchKernelExC", "cuLaunchKernel", "cuLaunchKernelEx")
_GRAPHS = ("cudaGraphLaunch",)
_WAITS = ("cudaStreamSynchronize", "cudaEventSynchronize", "cudaDeviceSynchronize")
_FEW, _MANY = 2, 10  # tokens of two answers, by which the steps differ


@dataclass(frozen=True)
class StepCounts:
    """Of a step, or of all steps of an answer."""

    launches: float
    graphs: float
    waits: float

    def per_step(self, shorter: StepCounts, steps: int) -> StepCounts:
        """What each of the steps took by which an answer is longer than another."""
        return StepCounts(
            (self.launches - shorter.launches) / steps,
            (self.graphs - shorter.graphs) / steps,
            (self.waits - shorter.waits) / steps,
        )


def counted(calls: Iterable[tuple[str, int]]) -> StepCounts:
    """Of calls of CUDA: their names, and how often each came."""
    found = list(calls)

    def of(names: tuple[str, ...]) -> int:
        return sum(count for name, count in found if name in names)

    return StepCounts(of(_LAUNCHES), of(_GRAPHS), of(_WAITS))


def count_steps(answer: Callable[[int], object]) -> StepCounts:
    """Of one decode step of `answer`, which writes so many tokens; as torch's profiler sees CUDA's calls."""
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    totals = []
    for tokens in (_FEW, _MANY):
        with torch.profiler.profile(activities=activities) as profile:
            answer(tokens)
        totals.append(counted((event.key, event.count) for event in profile.key_averages()))
    return totals[1].per_step(totals[0], _MANY - _FEW)
