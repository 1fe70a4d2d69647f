"""The simulation of many replicas: what can be worked out by hand, and what was measured on this kind of machine."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import pytest

from benchmarks.scale_simulation.__main__ import DOCUMENT, LEVELS, newest
from benchmarks.scale_simulation.capacity import (
    MACHINES,
    TARGET,
    USABLE,
    Habits,
    conversation_tokens,
    plan,
)
from benchmarks.scale_simulation.growth import MINIGPT_V2, SCENARIOS, level
from benchmarks.scale_simulation.many_replicas import Outcome, Ring, Scaling, Simulation, Talk
from benchmarks.scale_simulation.one_replica import StepTimes
from benchmarks.scale_simulation.shortages import ONE_PROCESS, Needs, broken, fullest, needs
from benchmarks.scale_simulation.tables import blocks, comparison, written
from benchmarks.scale_simulation.visitors import DAY, HOURS, conversations, is_busiest, share_of_hour

TIMES = StepTimes(step=0.010, answer=0.001, prompt_token=0.0001, first_turn=0.05, later_turn=0.0, piece=100, places=2)


def simulated(*conversations: Talk, scaling: Scaling | None = None, **changed: Any) -> Outcome:
    return Simulation(replace(TIMES, **changed), scaling or Scaling()).run(conversations)


def test_one_answer_takes_what_its_steps_take() -> None:
    (turn,) = simulated(Talk(1.0, ((500, 11),))).turns
    # It is prepared for 50 ms, and 500 tokens are read in five steps; the last one gives the first token.
    assert turn.first_token - turn.asked == pytest.approx(0.05 + 5 * (0.010 + 100 * 0.0001))
    assert turn.ended - turn.first_token == pytest.approx(10 * 0.011)


def test_turns_are_prepared_together_and_slow_the_answers_down() -> None:
    both = simulated(*[Talk(0.0, ((1, 1),))] * 2).turns
    assert [turn.first_token for turn in both] == pytest.approx([0.1 + 0.0101, 0.1 + 0.0101 + 0.0111], abs=1e-3)
    queued = simulated(*[Talk(0.0, ((1, 1),))] * 2, together=False).turns
    assert queued[1].first_token > 1.8 * queued[0].first_token
    assert both[1].first_token < 1.2 * both[0].first_token
    (beside, alone) = simulated(Talk(0.0, ((1, 50),)), Talk(0.2, ((1, 1),))).turns[::-1]
    assert alone.first_token - alone.asked == pytest.approx(0.1 + 0.011, abs=2e-3)  # half of the processor
    assert beside.ended - beside.first_token > 49 * 0.011 + 0.05


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


def test_a_replica_that_loads_is_paid_for_and_one_that_goes_while_it_loads_stays_away() -> None:
    scaling = Scaling(least=1, most=2, target=1, every=1, up_delay=0, down_delay=0, loading=60)
    talks = [Talk(0.0, ((10, 300),)), Talk(0.0, ((10, 300),)), Talk(100.0, ((10, 1),))]
    outcome = simulated(*talks, scaling=scaling)
    assert outcome.most_replicas == 2
    assert outcome.counts[-1][1] == 1
    assert outcome.replica_seconds > outcome.end + 2  # it came, and went before it was ready
    assert len(outcome.turns) == 3


def test_turns_may_be_taken_away_as_they_end() -> None:
    taken: list[float] = []
    talk = Talk(0.0, ((10, 5), (10, 5)))
    outcome = Simulation(TIMES, Scaling(), seconds=100.0, take=lambda turn: taken.append(turn.ended)).run([talk])
    assert (len(taken), outcome.turns, outcome.end) == (2, [], 100.0)


def test_it_says_what_was_measured() -> None:
    """Of one and two replicas of the bundled model: their work, tokens in a second, and how long who asks waits."""
    found = comparison(newest("scale"))
    assert len(found) == 9
    assert sum("to the first word" in what or "to the end" in what for _, what, _, _ in found) == 4
    for name, what, seen, said in found:
        assert said == pytest.approx(seen, rel=0.2), f"{name}, {what}"


def test_people_come_over_a_day() -> None:
    habits = Habits()
    assert len(HOURS) == 24
    assert sum(HOURS) == pytest.approx(100)
    assert max(HOURS) / 100 == habits.busiest
    begun = [talk.starts for talk in conversations(habits, MINIGPT_V2, 2000, 5, seed=1)]
    assert len(begun) == pytest.approx(10_000, rel=0.03)
    busiest = sum(map(is_busiest, begun)) / len(begun)
    assert 0.9 * habits.busiest < busiest < 1.02 * habits.busiest
    assert max(share_of_hour(60.0 * minute) for minute in range(24 * 60)) == habits.busiest
    assert max(begun) < 5 * DAY


def test_the_levels_that_are_kept_are_those_that_are_simulated() -> None:
    """The smaller ones are simulated again here; the larger take minutes."""
    rows = newest("growth")["rows"]
    for scenario in SCENARIOS:
        assert [row["daily_users"] for row in rows[scenario.name]] == list(LEVELS)
        for row in rows[scenario.name]:
            if row["daily_users"] <= 10_000:
                assert asdict(level(row["daily_users"], scenario)) == pytest.approx(row)


def test_thousands_of_replicas_were_simulated() -> None:
    assert max(row["most"] for rows in newest("growth")["rows"].values() for row in rows) > 2000


def test_the_document_has_what_is_kept() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    assert written(text, blocks(newest("scale"), newest("growth"))) == text


def test_what_breaks_is_what_has_too_little() -> None:
    assert broken(ONE_PROCESS, ONE_PROCESS) == "nothing"
    new = Needs(per_second=1, at_once=1, by_time=3, by_memory=6, doors=1.5)
    assert broken(new, ONE_PROCESS).startswith(
        "memory for conversations (6.0 times what is there), then the GPUs' time"
    )
    assert "the door (1.5 times)" in broken(new, ONE_PROCESS)
    assert broken(new, new) == "nothing"  # as whole replicas and doors were added
    assert needs(SCENARIOS[0], 1_000_000, 0.02).replicas == pytest.approx(
        10 * needs(SCENARIOS[0], 100_000, 0.02).replicas, rel=0.2
    )
    assert 1 < fullest(4) < fullest(100) < 2
    assert fullest(1) == pytest.approx(1)


def test_people_of_a_replica_are_bounded_by_memory_and_time() -> None:
    for machine in MACHINES:
        for habits in (Habits(), Habits(answer=300)):
            found = plan(MINIGPT_V2, machine, habits)
            assert found is not None
            memory = found.people * conversation_tokens(MINIGPT_V2, habits) * MINIGPT_V2.kv_token
            assert memory <= (machine.memory - MINIGPT_V2.weights) * USABLE
            assert found.questions <= TARGET * found.places
    small, large = (plan(MINIGPT_V2, machine, Habits()) for machine in MACHINES)
    assert small is not None
    assert large is not None
    assert small.people < large.people
    roomy = plan(MINIGPT_V2, replace(MACHINES[1], memory=10 * MACHINES[1].memory), Habits())
    assert roomy is not None
    assert roomy.people > large.people
    assert not roomy.by_memory
    assert plan(replace(MINIGPT_V2, weights=30 * 2**30), MACHINES[0], Habits()) is None
