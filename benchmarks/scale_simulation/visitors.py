"""Who comes, and when: conversations over the hours of a day."""

from __future__ import annotations

import random
from collections.abc import Iterator

from benchmarks.scale_simulation.capacity import Habits, Sizes
from benchmarks.scale_simulation.many_replicas import Talk

DAY = 86_400.0
# Of a day's questions, in percent for an hour, at the beginning of each hour from four in the morning on; between them
# it is in between. The most is what `Habits.busiest` says.
HOURS = (
    *(0.6, 0.8, 1.4, 2.4, 3.6, 4.6, 5.2, 5.4, 5.6, 5.6, 5.4, 5.4),
    *(5.6, 6.0, 7.0, 8.6, 10.0, 8.2, 4.6, 2.0, 0.8, 0.5, 0.4, 0.3),
)
BUSIEST = (HOURS.index(max(HOURS)) - 0.5) * 3600  # when the busiest hour begins, in seconds after the first
AT_LEAST = 0.3  # of the mean, that every pause and every answer has


def share_of_hour(moment: float) -> float:
    """Of a day's questions that would come in an hour if all of it were as this moment is, seconds from the first."""
    hour, rest = divmod(moment / 3600 % 24, 1)
    before, after = HOURS[int(hour)], HOURS[(int(hour) + 1) % 24]
    return (before + (after - before) * rest) / 100


def is_busiest(moment: float) -> bool:
    """Whether it lies in the busiest hour of its day."""
    return BUSIEST <= moment % DAY < BUSIEST + 3600


def conversations(habits: Habits, sizes: Sizes, daily_users: int, days: int, *, seed: int) -> Iterator[Talk]:
    """All that begin in so many days, by chance."""
    chance, now = random.Random(seed), 0.0
    most = habits.questions_per_second(daily_users) / habits.turns
    while (now := now + chance.expovariate(most)) < days * DAY:
        if chance.random() * habits.busiest >= share_of_hour(now):
            continue
        turns = tuple(
            (habits.words + (0 if number else sizes.image), max(1, round(_about(chance, habits.answer))))
            for number in range(habits.turns)
        )
        yield Talk(now, turns, think=_about(chance, habits.think))


def _about(chance: random.Random, mean: float) -> float:
    return mean * (AT_LEAST + chance.expovariate(1 / (1 - AT_LEAST)))
