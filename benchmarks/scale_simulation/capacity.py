"""How many people a replica serves: from the sizes of a model and what a GPU's maker says of it. Nothing of it was
measured on a GPU; what is assumed has a name here.

A step reads all weights of the language model and the keys and values of all running answers, so its length is theirs
over the bandwidth of the memory. Reading a prompt is arithmetic. 8 and 4 bits save memory; that they save time is not
assumed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.scale_simulation.one_replica import StepTimes

OF_BANDWIDTH, OF_ARITHMETIC = 0.6, 0.4  # of what the maker says
USABLE = 0.85  # of the pages of keys and values
BETWEEN_STEPS = 0.004  # seconds in which a GPU waits for Python
AROUND_A_TURN = 0.02  # seconds of the replica: the request, its picture through the tower
UTILISATION = 0.7  # of the time a replica works, so that a question seldom waits
PIECE = 512  # tokens of prompts that a step reads
MOST_PLACES = 32  # answers at once (`--max-chats`)


@dataclass(frozen=True)
class Machine:
    """A GPU: bytes of its memory without CUDA's own, bytes and 16-bit operations in a second, dollars for an hour."""

    name: str
    memory: float
    bandwidth: float
    operations: float
    price: float


# Bandwidth and operations as NVIDIA says; prices as Hugging Face takes for Spaces (2026-11).
MACHINES = (
    Machine("L4, 24 GB", 23.4 * 2**30, 0.30e12, 121e12, 0.80),
    Machine("A100, 80 GB", 79.4 * 2**30, 2.04e12, 312e12, 2.50),
)


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Of a model: bytes of all weights as loaded and of the decoder's in 16 bits, bytes of a token's keys and values,
    tokens of a picture."""

    weights: float
    decoder: float
    kv_token: int
    image: int


@dataclass(frozen=True, kw_only=True)
class Habits:
    """Of a person: `turns` in a conversation, `words` tokens of a question, `answer` tokens, `think` seconds between an
    answer and the next question. `daily` questions a day, of which the busiest hour has the share `busiest`."""

    turns: int = 6
    words: int = 30
    answer: int = 100
    think: float = 30.0
    daily: int = 6
    busiest: float = 0.1

    def questions_per_second(self, daily_users: float) -> float:
        """In the busiest hour."""
        return daily_users * self.daily * self.busiest / 3600


def conversation_tokens(sizes: Sizes, habits: Habits) -> int:
    """At its end."""
    return sizes.image + habits.turns * (habits.words + habits.answer)


def places(sizes: Sizes, machine: Machine, habits: Habits) -> int:
    """Answers at once for which there is memory; 0 where the weights leave none."""
    left = (machine.memory - sizes.weights) * USABLE
    # In pages, and once more where it is decoded without them.
    return max(0, min(MOST_PLACES, int(left / (2 * conversation_tokens(sizes, habits) * sizes.kv_token))))


def step_times(sizes: Sizes, machine: Machine, habits: Habits) -> StepTimes:
    """Of a replica on this machine."""
    bandwidth, operations = machine.bandwidth * OF_BANDWIDTH, machine.operations * OF_ARITHMETIC
    count = places(sizes, machine, habits)
    half_way = conversation_tokens(sizes, habits) / 2
    kept = (machine.memory - sizes.weights) * USABLE / sizes.kv_token - count * 2 * half_way
    return StepTimes(
        step=BETWEEN_STEPS + sizes.decoder / bandwidth,
        answer=half_way * sizes.kv_token / bandwidth,
        prompt_token=sizes.decoder / operations,  # two operations for each weight, which has two bytes
        first_turn=AROUND_A_TURN,
        later_turn=AROUND_A_TURN / 4,
        piece=PIECE,
        places=count,
        kept_tokens=max(1, int(kept)),
    )


def seconds_per_question(sizes: Sizes, machine: Machine, habits: Habits) -> float:
    """Of a replica that has all places taken, averaged over a conversation."""
    times = step_times(sizes, machine, habits)
    read = habits.words + sizes.image / habits.turns
    around = (times.first_turn + (habits.turns - 1) * times.later_turn) / habits.turns
    return habits.answer * times.seconds(times.places) / times.places + read * times.prompt_token + around


def people(sizes: Sizes, machine: Machine, habits: Habits) -> int:
    """Who may be in a conversation with one replica at a time, so that it has a place for their questions."""
    if not places(sizes, machine, habits):
        return 0
    times = step_times(sizes, machine, habits)
    cycle = habits.think + habits.answer * times.seconds(times.places)
    return int(UTILISATION * cycle / seconds_per_question(sizes, machine, habits))


def capacity_rows(name: str, variants: Sequence[tuple[str, Sizes]], habits: Sequence[Habits]) -> list[str]:
    """A row of the table for each precision: memory of a conversation, and for each machine people by answer length."""
    rows = []
    for precision, sizes in variants:
        memory = conversation_tokens(sizes, Habits()) * sizes.kv_token / 2**20
        cells = [
            " / ".join(str(people(sizes, machine, one) or "–") for one in habits)
            if people(sizes, machine, habits[0])
            else "–"
            for machine in MACHINES
        ]
        rows.append(f"| {name} | {precision} | {memory:.0f} MiB | " + " | ".join(cells) + " |")
    return rows
