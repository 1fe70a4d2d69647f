"""`python -m benchmarks`: the speed of everything that runs on a CPU, in less than ten minutes on two cores.

Exit status 1 when a greedy answer differs from `generate`'s, 2 for a mistake in the arguments. A goal that is missed is
printed and is in the report; it does not change the status, as it depends on the machine.
"""

from __future__ import annotations

import os
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from benchmarks import bundled, chats, experts, load_time, mixed_load, turns
from benchmarks.measure import Clock, SpeedReport, one_thread
from benchmarks.random_models import BACKBONES, SMALL, STANDARD, ModelSize
from benchmarks.report import RESULTS, as_values, circumstances, missed, save
from models.command_line import OneLineParser, place

FP32, BF16 = torch.float32, torch.bfloat16
CHATS = {FP32: {"chats": 2.4, "first_token": 4.5, "one": 0.95}, BF16: {"chats": 2.8, "first_token": 4.5, "one": 0.95}}
TURNS = {"turn5_few": 15.0, "turn5_many": 3.5, "turn2": 10.0}
LOAD = {"same": 25.0, "cast": 8.0, "memory": 1.25}
MOE, MIXED = 1.7, 2.0


class Comparisons:
    """The comparisons by name. `is_small` is the size for tests, where times mean nothing."""

    def __init__(self, backbones: Sequence[str], *, is_small: bool) -> None:
        self._backbones = backbones
        self._small = is_small
        self._size = SMALL if is_small else STANDARD
        self._clock = Clock(torch.device("cpu"))
        self.steps: dict[str, Callable[[SpeedReport], None]] = {
            "chats": self.chats,
            "bundled": self.bundled,
            "turns": self.turns,
            "mixed": self.mixed_load,
            "loading": self.loading,
            "experts": self.experts,
        }

    def chats(self, report: SpeedReport) -> None:
        """Eight chats and one, on every backbone; the first in both number formats."""
        for index, backbone in enumerate(self._backbones):
            for dtype, goals in CHATS.items() if index == 0 else [(FP32, CHATS[FP32])]:
                usual = chats.ChatsWork(repeats=1, alone_tokens=32) if index else chats.ChatsWork(repeats=2)
                work = chats.SMALL if self._small else usual
                chats.run(backbone, self._size_of(backbone), work, dtype, self._clock, report, goals)

    def bundled(self, report: SpeedReport) -> None:
        """The same on the models that ship."""
        bundled.run(
            chats.SMALL if self._small else chats.ChatsWork(repeats=5, alone=20), self._clock, report, CHATS[FP32]
        )

    def turns(self, report: SpeedReport) -> None:
        """Later turns of one chat."""
        for dtype in CHATS:
            work = turns.SMALL if self._small else turns.TurnsWork()
            turns.run(self._backbones[0], self._size, work, dtype, self._clock, report, TURNS)

    def mixed_load(self, report: SpeedReport) -> None:
        """Chats that begin and end at different times."""
        work = mixed_load.SMALL if self._small else mixed_load.MixedWork()
        mixed_load.run(self._backbones[0], self._size, work, BF16, self._clock, report, MIXED)

    def loading(self, report: SpeedReport) -> None:
        """A checkpoint from disk."""
        load_time.run(load_time.SMALL if self._small else load_time.LoadingWork(), self._clock, report, LOAD)

    def experts(self, report: SpeedReport) -> None:
        """MoE blocks of Phi-2's and StableLM's widths, and a model with experts."""
        sizes = ((1024, 2816, FP32), (2560, 10240, BF16))
        for hidden, inner, dtype in ((32, 64, FP32),) if self._small else sizes:
            experts.compare_blocks(
                hidden=hidden, inner=inner, dtype=dtype, counts=(1, 600), repeats=1 if self._small else 3,
                clock=self._clock, report=report, goal=MOE,
            )  # fmt: skip
        repeats, new_tokens = (1, 6) if self._small else (3, 32)
        experts.compare_with_dense("sparse_stablelm", self._size, new_tokens, BF16, repeats, self._clock, report)

    def _size_of(self, backbone: str) -> ModelSize:
        """Between 100 and 300 million parameters: models with experts have fewer layers."""
        has_experts = backbone == "mixtral" or backbone.startswith("sparse")
        return replace(self._size, layers=8) if has_experts and not self._small else self._size


def main(argv: Sequence[str] | None = None) -> int:
    """Run the comparisons and write the report."""
    names = tuple(Comparisons((), is_small=True).steps)
    parser = OneLineParser(prog="python -m benchmarks", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", nargs="+", choices=names, default=names, help="these comparisons alone")
    parser.add_argument("--backbones", nargs="+", choices=tuple(BACKBONES), default=tuple(BACKBONES))
    parser.add_argument("--small", action="store_true", help="a few seconds, for trying out: times mean nothing")
    parser.add_argument("--output", type=place, default=RESULTS, help="folder for the report (%(default)s)")
    args = parser.parse_args(argv)
    # bitsandbytes and transformers warn about choices that are made on purpose here.
    warnings.filterwarnings("ignore", category=UserWarning)
    report = SpeedReport()
    with one_thread():
        about = circumstances(torch.device("cpu"))
        comparisons = Comparisons(args.backbones, is_small=args.small)
        for name in args.only:
            print(f"{name}: {(comparisons.steps[name].__doc__ or '').strip()}", flush=True)
            start = time.perf_counter()
            comparisons.steps[name](report)
            print(f"  {name} took {time.perf_counter() - start:.0f} s", flush=True)
    path = save(as_values(report, about), args.output, "cpu")
    below = missed(report.figures)
    print(f"\n{len(report.figures)} figures, {len(below)} below their goals; report in {path} and .md")
    if not report.is_right:
        print("error: greedy answers differ from generate's; see DIFFERENT above.", file=sys.stderr)
    return 0 if report.is_right else 1


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    sys.exit(main())
