"""An answer by a replica: whoever reads it meets what the program's own engine would give, whatever happens there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from models.conversation import Answer, Sampling, Turn
from models.errors import Busy, ImageError, MiniVLMError, ServerFailed

pytestmark = pytest.mark.usefixtures("with_ray")
TURNS = [Turn("user", "What is it?")]
DONE = Answer(text="A red circle.", finish_reason="stop")


class Answers:
    """What `handle.remote()` of a streaming method gives."""

    def __init__(self, answers: list[Any]) -> None:
        self._answers: Iterator[Any] = iter(answers)
        self.is_cancelled = False

    def __next__(self) -> Answer:
        answer = next(self._answers)
        if isinstance(answer, Exception):
            raise answer
        assert isinstance(answer, Answer)
        return answer

    def cancel(self) -> None:
        self.is_cancelled = True


class Handle:
    """A deployment whose replicas give these, one after the other."""

    def __init__(self, *given: list[Any]) -> None:
        self.given = [Answers(answers) for answers in given]
        self.asked: list[dict[str, Any]] = []
        self.begun = 0

    def options(self, **options: Any) -> Handle:
        self.asked.append(options)
        return self

    def remote(self, *_: Any) -> Answers:
        self.begun += 1
        return self.given[self.begun - 1]


@pytest.fixture
def ask(with_ray: None) -> Callable[[Handle], Any]:
    from app.cluster.elsewhere import ReplicatedModel

    return lambda handle: ReplicatedModel(handle, None).stream(TURNS, Sampling())  # type: ignore[arg-type]


@pytest.fixture
def died(with_ray: None) -> Exception:
    from ray.exceptions import ActorDiedError

    return ActorDiedError()


def test_an_answer_comes_through(ask: Callable[[Handle], Any]) -> None:
    handle = Handle([Answer(text="A"), DONE])
    assert [answer.text for answer in ask(handle)] == ["A", "A red circle."]
    assert handle.asked[0]["method_name"] == "answer"
    assert len(handle.asked[0]["session_id"]) == 64


def test_who_dies_before_a_word_is_replaced_once(ask: Callable[[Handle], Any], died: Exception) -> None:
    assert [answer.text for answer in ask(Handle([Answer(text="", queue_number=2), died], [DONE]))][-1] == DONE.text
    with pytest.raises(ServerFailed, match="replica"):
        list(ask(Handle([died], [died])))


def test_who_dies_in_the_middle_is_an_error_that_says_so(ask: Callable[[Handle], Any], died: Exception) -> None:
    stream = ask(Handle([Answer(text="A red"), died], [DONE]))
    assert next(stream).text == "A red"
    with pytest.raises(ServerFailed, match="ask again"):
        next(stream)


def test_what_a_replica_raises_is_what_the_engine_would_raise(ask: Callable[[Handle], Any]) -> None:
    from ray.exceptions import RayTaskError

    error = RayTaskError("answer", "", ImageError("it is too large")).as_instanceof_cause()
    with pytest.raises(ImageError, match=r"^it is too large$") as raised:
        next(ask(Handle([error])))
    assert type(raised.value) is ImageError


def test_full_replicas_are_busy_and_other_failures_one_line(ask: Callable[[Handle], Any]) -> None:
    from ray.serve.exceptions import BackPressureError, ReplicaUnavailableError

    with pytest.raises(Busy):
        next(ask(Handle([BackPressureError(3, 3)])))
    with pytest.raises(MiniVLMError) as raised:
        next(ask(Handle([ReplicaUnavailableError("x")])))
    assert "\n" not in str(raised.value)
    with pytest.raises(ZeroDivisionError):
        next(ask(Handle([ZeroDivisionError()])))  # a bug stays one


def test_who_leaves_frees_the_replica(ask: Callable[[Handle], Any]) -> None:
    from ray.serve.exceptions import RequestCancelledError

    handle = Handle([Answer(text="A"), RequestCancelledError("x")])
    stream = ask(handle)
    next(stream)
    stream.close()
    assert handle.given[0].is_cancelled
    assert list(stream) == []
    never = Handle([DONE])
    stream = ask(never)
    stream.close()
    assert list(stream) == []
