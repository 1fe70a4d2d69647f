"""From ten people a day to a million: what the cluster has to be, and what its visitors notice in the busiest hour."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.scale_simulation.capacity import (
    MACHINES,
    UTILISATION,
    Habits,
    Machine,
    Sizes,
    seconds_per_question,
    step_times,
)
from benchmarks.scale_simulation.many_replicas import Scaling, Simulation, Talk

# MiniGPT-v2 in 16 bits, as loaded; tests/models/layouts compares it with the released sizes.
MINIGPT_V2 = Sizes(weights=15.1 * 2**30, decoder=13.48e9, kv_token=524_288, image=256)
TARGET = 0.5  # of a replica's places, that the autoscaler aims at
DOWN_FACTOR = 0.2  # of the replicas that are too many, gone at a time: as app/cluster/application.py has it
FLOOR = 0.5  # of the planned replicas are always there: from one alone the autoscaler overshoots in the morning
LOADING = 90.0  # seconds until a new replica is ready
LEAST_SECONDS, LEAST_CONVERSATIONS = 3600.0, 400
RISING = 0.5  # of the time, in which more and more come, as in a morning
SETTLED = 0.6  # of the time is left out
AT_LEAST = 0.3  # of the mean, that every pause and every answer has


@dataclass(frozen=True)
class Level:
    """One row of the table."""

    daily_users: int
    per_second: float
    replicas: float
    doors: float
    first_token: float  # seconds, of 19 in 20 questions
    found: float  # later turns whose conversation was still in memory
    working: float
    dollars: float  # a day

    def row(self) -> str:
        """For the table in the documents."""
        rate = f"{self.per_second:.1f}" if self.per_second >= 1 else f"{self.per_second:.3f}"
        cells = (
            *(f"{self.daily_users:,}", rate, f"{self.replicas:.0f}", f"{math.ceil(self.doors)}"),
            *(f"{self.first_token:.2f}", f"{self.found:.0%}", f"{self.working:.0%}", f"{self.dollars:,.0f}"),
        )
        return f"| {' | '.join(cells)} |"


HEAD = (
    "| People a day | Questions a second | Replicas | Doors | First token, s | Found | Working | Dollars a day |\n"
    "|--:|--:|--:|--:|--:|--:|--:|--:|"
)


def level(
    daily_users: int, *, door_seconds: float, sizes: Sizes = MINIGPT_V2, machine: Machine = MACHINES[1], seed: int = 0
) -> Level:
    """The busiest hour's traffic until it has settled, with as many replicas as it asks for.

    `door_seconds`: of the door's process, for each question.
    """
    habits = Habits()
    per_second = habits.questions_per_second(daily_users)
    seconds = max(LEAST_SECONDS, LEAST_CONVERSATIONS * habits.turns / per_second)
    times = step_times(sizes, machine, habits)
    planned = per_second * seconds_per_question(sizes, machine, habits) / UTILISATION
    scaling = Scaling(
        least=math.ceil(FLOOR * planned),
        most=100_000,
        target=TARGET * times.places,
        down_factor=DOWN_FACTOR,
        loading=LOADING,
    )
    outcome = Simulation(times, scaling, seconds=seconds).run(people(habits, per_second, seconds, seed=seed))
    settled = [turn for turn in outcome.turns if turn.asked > SETTLED * seconds]
    waits = sorted(turn.first_token - turn.asked for turn in settled)
    later = [turn for turn in settled if turn.number]
    day_of_busiest = 1 / (24 * habits.busiest)  # the mean of a day, as a share of its busiest hour
    replicas = outcome.replicas_at_end
    return Level(
        daily_users=daily_users,
        per_second=per_second,
        replicas=replicas,
        doors=per_second * door_seconds / UTILISATION,
        first_token=waits[int(0.95 * (len(waits) - 1))],
        found=sum(turn.found for turn in later) / len(later),
        working=sum(outcome.busy) / outcome.replica_seconds,
        dollars=max(1.0, replicas * day_of_busiest) * 24 * machine.price,
    )


def people(habits: Habits, per_second: float, seconds: float, *, seed: int) -> Iterator[Talk]:
    """Conversations that begin by chance, as many as that many questions need."""
    chance, now = random.Random(seed), 0.0
    while now < seconds:
        risen = min(1.0, 0.05 + now / (RISING * seconds))
        now += chance.expovariate(risen * per_second / habits.turns)
        turns = tuple(
            (habits.words + (MINIGPT_V2.image if number == 0 else 0), max(1, round(_about(chance, habits.answer))))
            for number in range(habits.turns)
        )
        yield Talk(now, turns, think=_about(chance, habits.think))


def _about(chance: random.Random, mean: float) -> float:
    return mean * (AT_LEAST + chance.expovariate(1 / (1 - AT_LEAST)))


def door_seconds(values: Mapping[str, Any]) -> float:
    """Of the door's process and of what takes HTTP for it, for each question that was measured."""
    runs = values["replicas_2"]
    num_questions = sum(len(turns) for run in runs for turns in run["rows"])
    return float(sum(run["door"] + run["proxy"] for run in runs)) / num_questions


def table(levels: Sequence[int], *, door_seconds: float) -> str:
    """Markdown."""
    return "\n".join([HEAD, *(level(count, door_seconds=door_seconds).row() for count in levels)])
