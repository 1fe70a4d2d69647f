"""Many questions, several at a time: their order, how many are under way, and how the run ends."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from engine.question_runner import QuestionRunner, TurnsAndSampling
from models.conversation import Answer, Sampling, Turn
from models.errors import RequestError
from tests.fakes import ScriptedModel
from tests.waiting import eventually


def asked(question: str) -> TurnsAndSampling:
    return [Turn("user", question)], Sampling()


def echo() -> ScriptedModel:
    return ScriptedModel(default=lambda turns: f"about {turns[-1].text}")


def test_answers_come_in_the_order_of_the_questions_whichever_is_ready_first() -> None:
    late = threading.Event()

    def prepare(question: str) -> TurnsAndSampling:
        if question == "0":
            assert late.wait(10)
        if question == "3":
            late.set()
        return asked(question)

    found = list(QuestionRunner(echo(), prepare, at_once=4).run(map(str, range(8))))
    assert [(question, answer.text) for question, answer in found if isinstance(answer, Answer)] == [
        (str(number), f"about {number}") for number in range(8)
    ]


def test_only_so_many_questions_are_read_ahead() -> None:
    read: list[int] = []

    def questions() -> Iterator[str]:
        for number in range(100):
            read.append(number)
            yield str(number)

    results = QuestionRunner(echo(), asked, at_once=3).run(questions())
    next(results)
    assert len(read) == 6
    next(results)
    assert len(read) == 7
    results.close()
    assert len(read) == 7


def test_no_more_are_asked_at_once_than_was_said() -> None:
    model = ScriptedModel(gate=threading.Semaphore(0))
    results = QuestionRunner(model, asked, at_once=3).run(map(str, range(9)))
    reader = threading.Thread(target=lambda: list(results))
    reader.start()
    assert eventually(lambda: model.open_streams == 3)
    assert len(model.seen) == 3
    model.open_gate()
    reader.join()
    assert len(model.seen) == 9


def test_an_error_belongs_to_its_question_and_a_bug_ends_the_run() -> None:
    bad = RequestError("not that")
    model = ScriptedModel(script=["one", bad, "three", ZeroDivisionError()])
    results = QuestionRunner(model, asked, at_once=1).run("abcdef")
    found = [next(results) for _ in range(3)]
    assert found[1] == ("b", bad)
    assert [answer.text for _, answer in (found[0], found[2]) if isinstance(answer, Answer)] == ["one", "three"]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_closing_ends_the_answers_that_are_being_written() -> None:
    gate = threading.Semaphore(0)
    model = ScriptedModel(gate=gate, default="a b c d e f g h i j k l m n o p")
    results = QuestionRunner(model, asked, at_once=2).run(map(str, range(9)))
    gate.release(3 * 17)  # the first is answered, others are not
    next(results)
    closing = threading.Thread(target=results.close)
    closing.start()
    gate.release(4)  # the script looks for its end only between two pieces
    closing.join(10)
    assert not closing.is_alive()
    assert model.open_streams == 0
    assert len(model.seen) < 9
