"""Chats that come, leave and stop while others read their answers: how evenly the text of each one flows.

The original has no counterpart (its demos answer one question at a time), so the ratio is between our own figures: the
95th percentile of the time between two updates of one answer, against the median.
"""

from __future__ import annotations

import gc
import statistics
import threading
from dataclasses import dataclass, field

import torch

from benchmarks.chats import KV_BYTES, greedy
from benchmarks.measure import Clock, Figure, SpeedReport
from benchmarks.random_models import ModelSize, picture, question, random_model
from engine.chat_engine import ChatEngine


@dataclass(frozen=True, kw_only=True)
class MixedWork:
    """Visitors at once, questions each asks, tokens of a question and of an answer (which some leave early)."""

    visitors: int = 6
    questions: int = 5
    shortest: int = 20
    longest: int = 160
    new_tokens: int = 48
    stop_after: int = 16


SMALL = MixedWork(visitors=3, questions=2, shortest=5, longest=20, new_tokens=12, stop_after=4)


@dataclass
class _Visitor:
    """Asks one question after the other; every third answer is stopped."""

    number: int
    gaps: list[float] = field(default_factory=list)
    error: BaseException | None = None

    def visit(self, engine: ChatEngine, work: MixedWork, clock: Clock) -> None:
        try:
            for index in range(work.questions):
                self._ask(engine, work, clock, self.number + work.visitors * index)
        except BaseException as error:
            self.error = error

    def _ask(self, engine: ChatEngine, work: MixedWork, clock: Clock, seed: int) -> None:
        length = work.shortest + (work.longest - work.shortest) * (seed * 5 % work.visitors) // work.visitors
        with engine.stream([question(length, seed, picture(seed % 4))], greedy(work.new_tokens)) as answers:
            before = None
            for answer in answers:
                now = clock()
                if before is not None:
                    self.gaps.append(now - before)
                before = now
                if seed % 3 == 2 and answer.num_new_tokens >= work.stop_after:
                    break


def run(
    backbone: str,
    size: ModelSize,
    work: MixedWork,
    dtype: torch.dtype,
    clock: Clock,
    report: SpeedReport,
    goal: float | None,
) -> None:
    """The figure for one backbone."""
    model = random_model(backbone, size, dtype=dtype, device=clock.device, context_tokens=512)
    visitors = [_Visitor(number) for number in range(work.visitors)]
    with ChatEngine(model, max_concurrent=work.visitors, kv_bytes=KV_BYTES, update_interval=0) as engine:
        threads = [threading.Thread(target=v.visit, args=(engine, work, clock)) for v in visitors]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for visitor in visitors:
        if visitor.error is not None:
            raise visitor.error
    gaps = sorted(gap for visitor in visitors for gap in visitor.gaps)
    median, late = statistics.median(gaps), gaps[int(0.95 * (len(gaps) - 1))]
    report.add(
        Figure(
            name="mixed load, 95th percentile of the time between updates against its median",
            setting=f"{model.info.name}, {model.info.dtype}",
            unit="s",
            ours=late,
            ratio=late / median,
            goal=goal,
            at_most=True,
        )
    )
    del model
    gc.collect()
