"""The simulation of many replicas: what can be worked out by hand, and what was measured on this kind of machine."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from benchmarks.scale_simulation.__main__ import comparison, newest
from benchmarks.scale_simulation.capacity import MACHINES, Habits, people, places
from benchmarks.scale_simulation.growth import MINIGPT_V2, door_seconds, level
from benchmarks.scale_simulation.many_replicas import Outcome, Ring, Scaling, Simulation, Talk
from benchmarks.scale_simulation.one_replica import StepTimes

TIMES = StepTimes(step=0.010, answer=0.001, prompt_token=0.0001, first_turn=0.05, later_turn=0.0, piece=100, places=2)


def simulated(*conversations: Talk, scaling: Scaling | None = None, **changed: Any) -> Outcome:
    return Simulation(replace(TIMES, **changed), scaling or Scaling()).run(conversations)


def test_one_answer_takes_what_its_steps_take() -> None:
    (turn,) = simulated(Talk(1.0, ((500, 11),))).turns
    # 500 tokens and 50 ms, which are as many again, in ten steps; the last one gives the first token.
    assert turn.first_token - turn.asked == pytest.approx(10 * (0.010 + 100 * 0.0001))
    assert turn.ended - turn.first_token == pytest.approx(10 * 0.011)


def test_two_share_steps_and_a_third_waits() -> None:
    alone = simulated(Talk(0.0, ((10, 101),)))
    two = simulated(*[Talk(0.0, ((10, 101),))] * 2)
    assert sum(two.busy) < 1.2 * sum(alone.busy)
    three = simulated(*[Talk(0.0, ((10, 101),))] * 3)
    last = max(three.turns, key=lambda turn: turn.ended)
    assert last.first_token > min(turn.ended for turn in three.turns)


def test_what_was_said_is_read_again_only_where_it_is_forgotten() -> None:
    talk = Talk(0.0, ((100, 10), (10, 10)))
    assert [turn.found for turn in simulated(talk).turns] == [False, True]
    crowd = [Talk(0.0, ((100, 10), (10, 10)), think=5.0), Talk(1.0, ((100, 10),))]
    told = simulated(*crowd, kept_tokens=150).turns
    assert [turn.found for turn in told if turn.number] == [False]


def test_a_ring_moves_only_what_a_new_replica_takes() -> None:
    ring = Ring()
    for number in range(9):
        ring.add(number)
    before = [next(ring.order(str(name))) for name in range(1000)]
    ring.add(9)
    after = [next(ring.order(str(name))) for name in range(1000)]
    moved = [now for then, now in zip(before, after, strict=True) if then != now]
    assert set(moved) == {9}
    assert 40 < len(moved) < 200
    ring.remove(9)
    assert [next(ring.order(str(name))) for name in range(1000)] == before


def test_replicas_come_with_the_questions_and_go_after_them() -> None:
    scaling = Scaling(least=0, most=5, target=2, every=1, up_delay=2, down_delay=10, loading=5)
    early = [Talk(0.01 * number, ((10, 1000),)) for number in range(20)]
    late = [Talk(500.0, ((10, 1),))]
    outcome = simulated(*early, *late, scaling=scaling)
    assert len(outcome.turns) == 21
    assert outcome.most_replicas == 5
    assert outcome.replica_seconds < 0.5 * 5 * outcome.end
    cold = max(outcome.turns, key=lambda turn: turn.asked)
    assert cold.asked > 505  # there was none, so it was refused until a new one was loaded


def test_it_says_what_was_measured() -> None:
    """Of one and two replicas of the bundled model: seconds of all and of the busiest, tokens in a second."""
    values = json.loads(newest().read_text(encoding="utf-8"))
    found = comparison(values)
    assert len(found) == 6
    for name, what, seen, said in found:
        assert said == pytest.approx(seen, rel=0.2), f"{name}, {what}"


def test_more_people_need_more() -> None:
    values = json.loads(newest().read_text(encoding="utf-8"))
    few, many = (level(count, door_seconds=door_seconds(values)) for count in (1000, 100_000))
    assert few.replicas == 1
    assert many.per_second == pytest.approx(100 * few.per_second)
    assert many.replicas > 1
    assert few.first_token < 1
    assert few.found > 0.95


def test_capacity_is_bounded_by_memory_and_time() -> None:
    small, large = MACHINES
    assert 0 < places(MINIGPT_V2, small, Habits()) < places(MINIGPT_V2, large, Habits())
    assert people(MINIGPT_V2, large, Habits(answer=50)) > people(MINIGPT_V2, large, Habits(answer=300)) > 0
    assert people(replace(MINIGPT_V2, weights=30 * 2**30), small, Habits()) == 0
