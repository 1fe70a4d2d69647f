"""Attacks beside a bystander: each does what it says, and what is wrong is seen."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from app.chat.decoding.scans import count_scans
from benchmarks.attacks.__main__ import main
from benchmarks.attacks.bystander import Bystander
from benchmarks.attacks.hostile_pictures import distinct_copies, jpeg_with_scans, large_png
from benchmarks.attacks.runner import ATTACKS, AttackReport, line_of, ranked
from benchmarks.attacks.target import all_at_once, at_once
from tests.waiting import apart

HELD = AttackReport("x", 1.0, 1.5, 3.0, 4, 900.0, 800.0, 2, [], {}, "")


class Visitor:
    """Answers what it is told to."""

    def __init__(self, *answers: list[str] | Exception) -> None:
        self._answers = list(answers)
        self.image = b""
        self.images: list[bytes] = []

    def visit(self) -> list[str]:
        self.images.append(self.image)
        answer = self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def test_a_bystander_sees_other_answers_and_none() -> None:
    visitor = Visitor(["a", "b"], ["a", "b"], ["a", "c"], RuntimeError("no answer came"))
    bystander = Bystander(visitor)  # type: ignore[arg-type]
    left = [True, True, True, False]
    assert len(bystander.visits_while(lambda: left.pop(0))) == 4
    assert bystander.wrong == ["['a', 'c'] instead of ['a', 'b']", "RuntimeError: no answer came"]
    assert len(set(visitor.images)) == 4


def test_one_conversation_of_ten_may_be_slow() -> None:
    assert ranked([9.0, *[1.0] * 9]) == 1.0
    assert ranked([9.0, 9.0, *[1.0] * 8]) == 9.0
    assert ranked([3.0]) == 3.0


@pytest.mark.parametrize("wrong", [{"wrong": ["x"]}, {"left": {"minivlm_active": 1.0}}, {"attacked": 2.1}])
def test_what_is_not_held_is_said(wrong: dict[str, object]) -> None:
    assert "held" in line_of(HELD)
    assert "FELL" in line_of(AttackReport(**{**vars(HELD), **wrong}))


def test_the_files_are_small_and_much_work() -> None:
    assert len(large_png()) < 30_000
    assert len(set(distinct_copies(b"x", 9))) == 9
    assert count_scans(jpeg_with_scans(85, 64))[0] > 85


@pytest.mark.parametrize("run", [at_once, all_at_once])
def test_outcomes_are_counted(run: Callable[..., object]) -> None:
    def fail(index: int) -> int:
        return 1 // index

    async def fail_later(index: int) -> int:
        return fail(index)

    assert apart(lambda: run(2, fail if run is at_once else fail_later)) == {"1": 1, "ZeroDivisionError": 1}


def test_there_are_attacks_of_every_kind(capsys: pytest.CaptureFixture[str]) -> None:
    assert len(ATTACKS) > 20
    assert all(attack.__doc__ for attack in ATTACKS.values())
    with pytest.raises(SystemExit) as ended:
        main(["no_such_attack"])
    assert ended.value.code == 2
    assert "there is no attack no_such_attack" in capsys.readouterr().err
