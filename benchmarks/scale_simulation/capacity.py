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
UTILISATION = 0.7  # of the time a replica works at most, so that a question seldom waits
TARGET = 0.5  # of its places are taken on the average, for the same reason
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


@dataclass(frozen=True, kw_only=True)
class ReplicaPlan:
    """Of a replica: answers at once (`--max-chats`), people who are in a conversation with it, of whose questions
    `questions` are under way at a time (`--target`), and whether `memory` bounds these people, not time."""

    places: int
    people: int
    questions: float
    by_memory: bool
    times: StepTimes


def plan(sizes: Sizes, machine: Machine, habits: Habits) -> ReplicaPlan | None:
    """With as many answers at once as let most people be in a conversation; None where the weights leave no memory.

    More answers at once share a step, and leave less memory for the conversations of those who think.
    """
    plans = [_plan(sizes, machine, habits, count) for count in range(1, MOST_PLACES + 1)]
    return max((one for one in plans if one is not None and one.people), key=lambda one: one.people, default=None)


def _plan(sizes: Sizes, machine: Machine, habits: Habits, places: int) -> ReplicaPlan | None:
    kept = _kept_tokens(sizes, machine, habits, places)
    if kept <= 0:
        return None
    times = step_times(sizes, machine, habits, places)
    in_memory = kept // conversation_tokens(sizes, habits)
    in_time = int(
        min(
            UTILISATION
            * (habits.think + habits.answer * times.seconds(places))
            / seconds_per_question(times, sizes, habits),
            _people_of(times, sizes, habits, TARGET * places),
        )
    )
    count = min(in_memory, in_time)
    return ReplicaPlan(
        places=places,
        people=count,
        questions=_under_way(times, sizes, habits, count),
        by_memory=in_memory < in_time,
        times=times,
    )


def _kept_tokens(sizes: Sizes, machine: Machine, habits: Habits, places: int) -> int:
    """Of conversations, beside the answers that are written: these are in pages, and once more in the memory in which
    they are decoded without them."""
    pages = (machine.memory - sizes.weights) * USABLE / sizes.kv_token
    return int(pages - places * conversation_tokens(sizes, habits))


def step_times(sizes: Sizes, machine: Machine, habits: Habits, places: int) -> StepTimes:
    """Of a replica on this machine."""
    bandwidth, operations = machine.bandwidth * OF_BANDWIDTH, machine.operations * OF_ARITHMETIC
    return StepTimes(
        step=BETWEEN_STEPS + sizes.decoder / bandwidth,
        answer=conversation_tokens(sizes, habits) / 2 * sizes.kv_token / bandwidth,
        prompt_token=sizes.decoder / operations,  # two operations for each weight, which has two bytes
        first_turn=AROUND_A_TURN,
        later_turn=AROUND_A_TURN / 4,
        piece=PIECE,
        places=places,
        together=False,  # a GPU does one thing after the other
        kept_tokens=_kept_tokens(sizes, machine, habits, places),
    )


def seconds_per_question(times: StepTimes, sizes: Sizes, habits: Habits) -> float:
    """Of a replica that has all places taken, averaged over a conversation."""
    return habits.answer * times.seconds(times.places) / times.places + _before_answer(times, sizes, habits)


def _before_answer(times: StepTimes, sizes: Sizes, habits: Habits) -> float:
    read = habits.words + sizes.image / habits.turns
    return read * times.prompt_token + (times.first_turn + (habits.turns - 1) * times.later_turn) / habits.turns


def _people_of(times: StepTimes, sizes: Sizes, habits: Habits, questions: float) -> float:
    """Who ask, read and think, so that so many questions are under way on the average."""
    seconds = habits.answer * times.seconds(questions) + _before_answer(times, sizes, habits)
    return questions * (habits.think + seconds) / seconds


def _under_way(times: StepTimes, sizes: Sizes, habits: Habits, people: int) -> float:
    """The other way round; not more than TARGET of the places."""
    low, high = 0.0, TARGET * times.places
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if _people_of(times, sizes, habits, middle) < people else (low, middle)
    return high


def capacity_rows(name: str, variants: Sequence[tuple[str, Sizes]], habits: Sequence[Habits]) -> list[str]:
    """A row of the table for each precision: memory of a conversation, and for each machine people by answer length."""
    rows = []
    for precision, sizes in variants:
        memory = conversation_tokens(sizes, Habits()) * sizes.kv_token / 2**20
        cells = []
        for machine in MACHINES:
            plans = [plan(sizes, machine, one) for one in habits]
            cells.append(" / ".join(_people(one) for one in plans) if any(plans) else "–")
        rows.append(f"| {name} | {precision} | {memory:.0f} MiB | " + " | ".join(cells) + " |")
    return rows


def _people(found: ReplicaPlan | None) -> str:
    if found is None:
        return "–"
    return f"{found.people}{'*' if found.by_memory else ''}"
