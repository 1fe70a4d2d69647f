"""An answer that is closed, or loses its loop, at the worst moment: between two lines of the thread that reads it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from engine import answer_stream
from engine.answer_stream import Submission
from engine.batching.generation_loop import LoopStopped, Ticket
from engine.chat_engine import ChatEngine
from models.conversation import Answer, Sampling, Turn
from models.vision_language_model import VisionLanguageModel
from tests.engine.helpers import assert_idle, end_of, hold_steps, last, start, talk_forever
from tests.tiny_model import GREEDY, ask, picture
from tests.waiting import eventually

LONG = replace(GREEDY, max_new_tokens=400)

pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture
def engine(model: VisionLanguageModel) -> Iterator[ChatEngine]:
    with start(model, max_concurrent=1) as engine:
        yield engine


def test_closing_wakes_a_reader_that_waits(
    engine: ChatEngine, model: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answer_stream, "_HEARTBEAT", 60)
    may_go_on = hold_steps(model)
    stream = engine.stream(ask("hi"), GREEDY)
    with ThreadPoolExecutor(1) as pool:
        answers = pool.submit(list, stream)
        try:
            assert eventually(lambda: engine.stats().in_loop == 1)
            stream.close()
            assert answers.result(timeout=20) == []  # the step is still under way
        finally:
            may_go_on.set()
    assert_idle(engine)


def test_closed_while_the_prompt_is_prepared(
    engine: ChatEngine, model: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    talk_forever(model)
    stream = engine.stream(ask("hi", picture(1)), LONG)
    submit = stream._submit

    def submit_and_close(turns: Sequence[Turn], sampling: Sampling) -> Submission:
        submission = submit(turns, sampling)
        stream.close()
        return submission

    monkeypatch.setattr(stream, "_submit", submit_and_close)
    assert list(stream) == []
    assert_idle(engine)


def test_closed_on_the_way_into_the_queue(
    engine: ChatEngine, model: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    talk_forever(model, seconds_per_token=0.005)
    with engine.stream(ask("hi"), LONG) as first:
        next(first)
        second = engine.stream(ask("you"), LONG)
        join = engine._admission.join

        def join_and_close() -> threading.Event:
            entry = join()
            second.close()
            return entry

        monkeypatch.setattr(engine._admission, "join", join_and_close)
        list(second)
        assert engine.stats().waiting == 0
    assert_idle(engine)


def loop_ends_after(condition: Callable[[Ticket], bool]) -> Callable[[Ticket], None]:
    def check(ticket: Ticket) -> None:
        assert eventually(lambda: condition(ticket))
        raise LoopStopped("The model was shut down while it answered.")

    return check


@pytest.mark.parametrize("is_complete", [True, False])
def test_a_loop_that_ends_after_an_answers_last_token_has_answered(
    engine: ChatEngine, model: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch, is_complete: bool
) -> None:
    """The reader finds no output, then that the loop has ended; between the two the last output may have come."""
    expected = last(engine, ask("hi"))
    monkeypatch.setattr(answer_stream, "_HEARTBEAT", 0)
    may_go_on = hold_steps(model)

    def has_ended(ticket: Ticket) -> bool:
        may_go_on.set()
        output = ticket.mailbox.wait(10**6, 1)
        return output is not None and output.is_finished()

    monkeypatch.setattr(engine._loop, "check", loop_ends_after(has_ended if is_complete else lambda _: True))
    stream = engine.stream(ask("hi"), GREEDY)
    try:
        if is_complete:
            assert end_of(stream).text == expected.text
        else:
            with pytest.raises(LoopStopped):
                next(stream)
    finally:
        may_go_on.set()
    assert_idle(engine)


def test_the_number_in_the_queue_is_said_when_it_changes(engine: ChatEngine, model: VisionLanguageModel) -> None:
    talk_forever(model, seconds_per_token=0.001)
    streams = [engine.stream(ask("hi"), LONG) for _ in range(3)]
    next(streams[0])
    assert next(streams[1]) == Answer(text="", queue_number=1)
    assert next(streams[2]) == Answer(text="", queue_number=2)
    streams[1].close()
    assert next(streams[2]) == Answer(text="", queue_number=1)
    streams[0].close()
    assert next(streams[2]) == Answer(text="")  # its turn has come: it says so before there is a word
    assert next(streams[2]).text
    streams[2].close()
    assert_idle(engine)
