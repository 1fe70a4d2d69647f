"""Time, medians and the figures of a report.

On a CPU the clock is the CPU time of this process, so that other programs on the machine change little. The variants
of a comparison take turns; each figure is a median, and a ratio that of the ratios of the repetitions. Elsewhere the
clock is wall time with the work of the device finished.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch

Run = Callable[[int], Mapping[str, float]]


@dataclass(frozen=True)
class Clock:
    """Seconds on a device."""

    device: torch.device

    def __call__(self) -> float:
        if self.device.type == "cpu":
            return time.process_time()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def peak_memory() -> int:
    """The most memory this process has had, in bytes: its own and the pages of files that it has mapped and read.

    On Linux from /proc, as a new process begins with its parent's peak in `ru_maxrss` there.
    """
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        import resource  # not there on Windows

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One line of a report: what the original's way takes or gives, what ours does, and how many times better that is.

    `goal` is the least ratio wanted, or the largest where `at_most`. `original` is None where the ratio compares
    something else, which `name` then says.
    """

    name: str
    setting: str
    unit: str
    ours: float
    ratio: float
    original: float | None = None
    goal: float | None = None
    at_most: bool = False

    @property
    def is_met(self) -> bool | None:
        """Whether the goal is reached; None without one."""
        if self.goal is None:
            return None
        return self.ratio <= self.goal if self.at_most else self.ratio >= self.goal


@dataclass
class SpeedReport:
    """What a run found: figures, and whether greedy tokens were those of `generate` (in fp32), by setting."""

    figures: list[Figure] = field(default_factory=list)
    equal: dict[str, bool] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(self, figure: Figure) -> None:
        """Keep a figure and print it."""
        self.figures.append(figure)
        print(line(figure), flush=True)

    def check_equal(self, setting: str, ours: Sequence[str], original: Sequence[str]) -> None:
        """Note whether two lists of greedy answers are the same."""
        same = list(ours) == list(original)
        self.equal[setting] = self.equal.get(setting, True) and same
        print(f"  greedy answers, {setting}: {'equal' if same else 'DIFFERENT'}", flush=True)

    def note(self, text: str) -> None:
        """A sentence for the end of the report."""
        self.notes.append(text)
        print(f"  {text}", flush=True)

    @property
    def is_right(self) -> bool:
        """False if any greedy answer differed."""
        return all(self.equal.values())


def line(figure: Figure) -> str:
    """A figure as one line of text."""
    sides = f"{figure.ours:.4g} {figure.unit}"
    if figure.original is not None:
        sides += f" against {figure.original:.4g}"
    goal = ""
    if figure.goal is not None:
        goal = f", goal {'at most' if figure.at_most else 'at least'} {figure.goal:g}: "
        goal += "met" if figure.is_met else "NOT MET"
    return f"  {figure.name}, {figure.setting}: {figure.ratio:.2f}x ({sides}){goal}"


@dataclass(frozen=True)
class Samples:
    """What variants returned: by variant, what each repetition gave."""

    found: Mapping[str, Sequence[Mapping[str, float]]]

    def median(self, variant: str, key: str) -> float:
        """Over the repetitions."""
        return statistics.median(sample[key] for sample in self.found[variant])

    def ratio(self, key: str, over: str, under: str) -> float:
        """Median of the repetitions' ratios: whatever slows the machine for some of them slows both sides alike."""
        pairs = zip(self.found[over], self.found[under], strict=True)
        return statistics.median(above[key] / below[key] for above, below in pairs)


def take_turns(variants: Mapping[str, Run], *, repeats: int) -> Samples:
    """Run each variant once per repetition, in turn.

    A variant is given the number of the repetition, so that it can avoid what an earlier one left in a cache.
    """
    samples: dict[str, list[Mapping[str, float]]] = {name: [] for name in variants}
    for repetition in range(repeats):
        for name, run in variants.items():
            samples[name].append(run(repetition))
    return Samples(samples)


@contextmanager
def one_thread() -> Iterator[None]:
    """One torch thread: with several, CPU time says little and a busy machine makes them wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
