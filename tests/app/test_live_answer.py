"""The thread between the model and the page."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

import pytest

from app.live_answer import LiveAnswer
from models.conversation import Answer, Sampling, Turn
from models.errors import Busy
from tests.app.helpers import eventually
from tests.fakes import ScriptedModel

TURNS = (Turn("user", "hello"),)


class Stubborn(ScriptedModel):
    """Its streams can be closed from another thread, even while nothing has come yet, as those of the engine can."""

    def stream(self, turns: Sequence[Turn], sampling: Sampling) -> Iterator[Answer]:
        return BlockedStream(self)


class BlockedStream:
    def __init__(self, model: ScriptedModel) -> None:
        self._model, self._closed = model, threading.Event()
        model.open_streams += 1

    def __iter__(self) -> BlockedStream:
        return self

    def __next__(self) -> Answer:
        self._closed.wait()
        raise StopIteration

    def close(self) -> None:
        if not self._closed.is_set():
            self._model.open_streams -= 1
        self._closed.set()


def test_a_fast_model_does_not_flood_the_page() -> None:
    text = " ".join(str(number) for number in range(2000))
    answers = list(LiveAnswer(ScriptedModel([text]), TURNS, Sampling()).updates())
    assert answers[-1].text == text
    assert answers[-1].finish_reason == "stop"
    assert len(answers) < 500


def test_there_is_an_update_before_the_model_says_anything() -> None:
    model = ScriptedModel(gate=threading.Semaphore(0))
    live = LiveAnswer(model, TURNS, Sampling())
    updates = live.updates()
    assert next(updates).text == ""
    assert next(updates).text == ""  # a heartbeat: the reader is not blocked by the model
    live.stop()
    assert next(updates).finish_reason is None
    with pytest.raises(StopIteration):
        next(updates)
    model.open_gate()
    assert eventually(lambda: model.open_streams == 0)


def test_stop_closes_a_stream_that_has_not_begun() -> None:
    model = Stubborn()
    live = LiveAnswer(model, TURNS, Sampling())
    assert eventually(lambda: model.open_streams == 1)
    live.stop()
    assert eventually(lambda: model.open_streams == 0)
    live.stop()
    assert not live.is_running


def test_errors_come_after_the_text_before_them() -> None:
    class Breaking(ScriptedModel):
        def stream(self, turns: Sequence[Turn], sampling: Sampling) -> Iterator[Answer]:
            yield Answer(text="so far")
            raise Busy("Too many questions.")

    live = LiveAnswer(Breaking(), TURNS, Sampling())
    assert eventually(lambda: not live.is_running)
    updates = live.updates()
    assert next(updates).text == "so far"
    with pytest.raises(Busy):
        next(updates)


def test_a_model_that_refuses_at_once() -> None:
    class Refusing(ScriptedModel):
        def stream(self, turns: Sequence[Turn], sampling: Sampling) -> Iterator[Answer]:
            raise Busy("Too many questions.")

    with pytest.raises(Busy):
        list(LiveAnswer(Refusing(), TURNS, Sampling()).updates())
