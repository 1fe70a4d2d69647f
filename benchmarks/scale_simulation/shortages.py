"""What breaks first when ten times as many people come: what they need, against what was enough for a tenth of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.scale_simulation.capacity import UTILISATION, conversation_tokens, plan, seconds_per_question
from benchmarks.scale_simulation.growth import Scenario, doors, people_at_once, rate
from benchmarks.scale_simulation.many_replicas import Ring

HEAD = (
    "| People a day | Questions a second | In a conversation | Replicas by time | by memory | Doors | Fullest replica "
    "| What breaks first, with what was enough for the row above |\n"
    "|--:|--:|--:|--:|--:|--:|--:|---|"
)


@dataclass(frozen=True)
class Needs:
    """Of so many people, when most come: replicas by the time and by the memory that they take, doors."""

    per_second: float
    at_once: float
    by_time: float
    by_memory: float
    doors: float

    @property
    def replicas(self) -> int:
        """For time and memory."""
        return math.ceil(max(self.by_time, self.by_memory))


ONE_PROCESS = Needs(0, 0, 1, 1, 1)


def needs(scenario: Scenario, daily_users: int, door_seconds: float) -> Needs:
    """Worked out, not simulated."""
    sizes, habits = scenario.sizes, scenario.habits
    planned = plan(sizes, scenario.machine, habits)
    assert planned is not None, "the weights fit"
    per_second, at_once = habits.questions_per_second(daily_users), people_at_once(scenario, daily_users)
    return Needs(
        per_second=per_second,
        at_once=at_once,
        by_time=per_second * seconds_per_question(planned.times, sizes, habits) / UTILISATION,
        by_memory=at_once * conversation_tokens(sizes, habits) / planned.times.kept_tokens,
        doors=doors(per_second, door_seconds),
    )


def broken(new: Needs, before: Needs) -> str:
    """What is too little, the worst first."""
    there, doors_there = before.replicas, math.ceil(before.doors)
    ratios = [
        (new.by_memory / there, f"memory for conversations ({new.by_memory / there:.1f} times what is there)"),
        (new.by_time / there, f"the GPUs' time ({new.by_time / there:.1f} times)"),
        (new.doors / doors_there, f"the door ({new.doors / doors_there:.1f} times)"),
    ]
    return ", then ".join(words for ratio, words in sorted(ratios, reverse=True) if ratio > 1) or "nothing"


def fullest(replicas: int) -> float:
    """Of the names that a ring gives its replicas: what the fullest has, against the mean."""
    ring = Ring()
    ring.add(*range(replicas))
    return max(ring.shares().values()) * replicas


def shortage_table(scenario: Scenario, levels: Sequence[int], door_seconds: float) -> str:
    """Markdown."""
    rows, before = [HEAD], ONE_PROCESS
    for count in levels:
        new = needs(scenario, count, door_seconds)
        cells = (
            *(f"{count:,}", rate(new.per_second), f"{new.at_once:,.0f}", f"{new.by_time:,.1f}"),
            *(f"{new.by_memory:,.1f}", f"{math.ceil(new.doors)}", f"{fullest(new.replicas):.2f} x the mean"),
            broken(new, before),
        )
        rows.append(f"| {' | '.join(cells)} |")
        before = new
    return "\n".join(rows)
