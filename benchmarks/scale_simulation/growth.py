"""From ten people a day to a million: days with all their hours, what they take, and what their visitors notice."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.scale_simulation.capacity import MACHINES, UTILISATION, Habits, Machine, Sizes, plan
from benchmarks.scale_simulation.many_replicas import Scaling, Simulation
from benchmarks.scale_simulation.one_replica import SimulatedTurn
from benchmarks.scale_simulation.visitors import DAY, conversations, is_busiest, share_of_hour

# MiniGPT-v2 in 16 bits, as loaded; tests/models/layouts compares it with the released sizes.
MINIGPT_V2 = Sizes(weights=15.1 * 2**30, decoder=13.48e9, kv_token=524_288, image=256)
DOWN_FACTOR = 0.2  # of the replicas that are too many, gone at a time: as app/cluster/application.py has it
LOADING = 90.0  # seconds until a new replica is ready
LEAST_CONVERSATIONS = 200  # that are simulated: so many days


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """What is asked on which GPU."""

    name: str
    machine: Machine
    habits: Habits
    sizes: Sizes = MINIGPT_V2


SCENARIOS = (
    Scenario(name="A100", machine=MACHINES[1], habits=Habits()),
    Scenario(name="L4, answers of 300 tokens", machine=MACHINES[0], habits=Habits(answer=300)),
)


@dataclass(frozen=True)
class Level:
    """What so many people a day take: a row of the tables. Replicas: the fewest and the most that were there."""

    daily_users: int
    per_second: float  # questions, when most come
    fewest: int
    most: int
    first_token: float  # seconds, of 19 in 20 questions of the busiest hour
    found: float  # later turns of that hour whose conversation was still in memory
    refused: float  # questions that were told to come again, of all
    working: float  # of the time of all replicas
    gpu_hours: float  # a day

    def row(self, machine: Machine) -> str:
        """For the table in the documents."""
        replicas = f"{self.fewest}" if self.fewest == self.most else f"{self.fewest:,} to {self.most:,}"
        cells = (
            *(f"{self.daily_users:,}", rate(self.per_second), replicas, f"{self.first_token:.2f}"),
            *(f"{self.found:.0%}", f"{self.working:.0%}", f"{self.gpu_hours:,.0f}"),
            f"{self.gpu_hours * machine.price:,.0f}",
        )
        return f"| {' | '.join(cells)} |"


def rate(per_second: float) -> str:
    """Questions in a second, as the tables show them."""
    return f"{per_second:.1f}" if per_second >= 1 else f"{per_second:.3f}"


HEAD = (
    "| People a day | Questions a second | Replicas | First token, s | Found | Working | GPU hours | Dollars |\n"
    "|--:|--:|--:|--:|--:|--:|--:|--:|"
)


@dataclass
class Seen:
    """What is kept of the turns, which are too many to keep all of them."""

    waits: list[float] = field(default_factory=list)  # for first tokens, in the busiest hour
    later: int = 0
    found: int = 0
    count: int = 0

    def take(self, turn: SimulatedTurn) -> None:
        """One that has ended."""
        self.count += 1
        if not is_busiest(turn.asked):
            return
        self.waits.append(turn.first_token - turn.asked)
        if turn.number:
            self.later += 1
            self.found += turn.found


def level(daily_users: int, scenario: Scenario = SCENARIOS[0], *, seed: int = 0) -> Level:
    """Whole days of so many people, with as many replicas as the autoscaler brings."""
    habits, planned = scenario.habits, plan(scenario.sizes, scenario.machine, scenario.habits)
    assert planned is not None, "the weights fit"
    days = max(1, math.ceil(LEAST_CONVERSATIONS * habits.turns / (daily_users * habits.daily)))
    per_second = habits.questions_per_second(daily_users)
    in_conversation = people_at_once(scenario, daily_users)
    scaling = Scaling(
        first=math.ceil(in_conversation * share_of_hour(0) / habits.busiest / planned.people),
        most=1_000_000,
        target=planned.questions,
        down_factor=DOWN_FACTOR,
        loading=LOADING,
    )
    seen = Seen()
    simulation = Simulation(planned.times, scaling, seconds=days * DAY, take=seen.take)
    outcome = simulation.run(conversations(habits, scenario.sizes, daily_users, days, seed=seed))
    counts = [count for _, count in outcome.counts]
    waits = sorted(seen.waits)
    return Level(
        daily_users=daily_users,
        per_second=per_second,
        fewest=min(counts),
        most=max(counts),
        first_token=waits[int(0.95 * (len(waits) - 1))],
        found=seen.found / seen.later,
        refused=outcome.refused / seen.count,
        working=sum(outcome.busy) / outcome.replica_seconds,
        gpu_hours=outcome.replica_seconds / 3600 / days,
    )


def people_at_once(scenario: Scenario, daily_users: int) -> float:
    """In a conversation when most come: they ask, read and think."""
    planned = plan(scenario.sizes, scenario.machine, scenario.habits)
    assert planned is not None
    share = planned.questions / planned.people  # of the time, that somebody waits for an answer
    return scenario.habits.questions_per_second(daily_users) * scenario.habits.think / (1 - share)


def door_seconds(values: Mapping[str, Any]) -> float:
    """Of the door's process and of what takes HTTP for it, for each question that was measured."""
    runs = values["replicas_2"]
    num_questions = sum(len(turns) for run in runs for turns in run["rows"])
    return float(sum(run["door"] + run["proxy"] for run in runs)) / num_questions


def doors(per_second: float, seconds: float) -> float:
    """Processes that take so many questions, each for so many seconds."""
    return per_second * seconds / UTILISATION


def grown(levels: Iterable[int]) -> dict[str, list[dict[str, Any]]]:
    """For a report: the rows of each scenario."""
    return {one.name: [asdict(level(count, one)) for count in levels] for one in SCENARIOS}


def table(rows: Sequence[Mapping[str, Any]], scenario: Scenario) -> str:
    """Markdown, of what `grown` gave for it."""
    return "\n".join([HEAD, *(Level(**row).row(scenario.machine) for row in rows)])
