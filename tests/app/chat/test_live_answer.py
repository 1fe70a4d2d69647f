"""The thread between the model and the page."""

from __future__ import annotations

import threading
from collections.abc import Generator, Sequence
from types import SimpleNamespace

import pytest

from app.chat import live_answer
from app.chat.live_answer import LiveAnswer
from engine.asker import ASKER, NOBODY, Asker
from engine.chat_model import GeneratorStream, Stream
from models.conversation import Answer, Sampling, Turn
from models.errors import Busy, ShutDown
from tests.fakes import ScriptedModel
from tests.waiting import eventually

TURNS = (Turn("user", "hello"),)


class Stubborn(ScriptedModel):
    """Its streams can be closed from another thread, even while nothing has come yet, as those of the engine can."""

    def stream(self, turns: Sequence[Turn], sampling: Sampling) -> Stream:
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
    answers = list(LiveAnswer(ScriptedModel([text]), TURNS, Sampling()).start().updates())
    assert answers[-1].text == text
    assert answers[-1].finish_reason == "stop"
    assert len(answers) < 500


def test_there_is_an_update_before_the_model_says_anything() -> None:
    model = ScriptedModel(gate=threading.Semaphore(0))
    live = LiveAnswer(model, TURNS, Sampling()).start()
    updates = live.updates()
    assert next(updates).text == ""
    assert next(updates).text == ""  # a heartbeat: the reader is not blocked by the model
    live.stop()
    assert next(updates).finish_reason is None
    with pytest.raises(StopIteration):
        next(updates)
    model.open_gate()
    assert eventually(lambda: model.open_streams == 0)


def test_a_page_that_draws_slowly_is_updated_as_slowly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_answer, "_being_written", set())
    model = ScriptedModel(gate=threading.Semaphore(0))
    live = LiveAnswer(model, TURNS, Sampling()).start()
    clock, pauses = iter([10, 13, 20, 20, 30, 30.0625, 40]), list[float]()
    monkeypatch.setattr(live_answer, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    monkeypatch.setattr(live._stopped, "wait", pauses.append)
    monkeypatch.setattr(live._is_over, "wait", lambda more: pauses.append(pauses.pop() + more))
    updates = live.updates()
    for _ in range(4):
        next(updates)
    assert pauses == pytest.approx([3, live_answer.UPDATE_INTERVAL, 3 * 0.0625])
    live.stop()
    model.open_gate()
    assert eventually(lambda: model.open_streams == 0)


def test_pages_rest_longer_the_more_answers_are_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them together take a part of the processor, not each of them."""
    monkeypatch.setattr(live_answer, "_being_written", set())
    model = ScriptedModel(gate=threading.Semaphore(0))
    lives = [LiveAnswer(model, TURNS, Sampling()).start() for _ in range(5)]
    assert live_answer._rest(0.0625, NOBODY) == 5 * 3 * 0.0625
    assert live_answer._rest(0.001, NOBODY) == live_answer.UPDATE_INTERVAL
    assert live_answer._rest(0.5, NOBODY) == live_answer.LONGEST_OF_ALL
    for live in lives[1:]:
        live.stop()
    assert live_answer._rest(0.0625, NOBODY) == 3 * 0.0625
    lives[0].stop()
    model.open_gate()
    assert eventually(lambda: model.open_streams == 0)
    assert live_answer._being_written == set()


def test_many_answers_of_one_address_do_not_slow_down_anothers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_answer, "_being_written", set())
    model = ScriptedModel(gate=threading.Semaphore(0))
    lives = []
    for client in ("a", "a", "a", "b"):
        before = ASKER.set(Asker(client))
        lives.append(LiveAnswer(model, TURNS, Sampling()).start())
        ASKER.reset(before)
    assert [live_answer._rest(0.03125, Asker(client)) for client in "ab"] == [2 * 3 * 3 * 0.03125, 2 * 3 * 0.03125]
    for live in lives:
        live.stop()
    model.open_gate()
    assert eventually(lambda: model.open_streams == 0)


def test_many_answers_of_one_browser_do_not_slow_down_anothers_of_its_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_answer, "_being_written", set())
    model = ScriptedModel(gate=threading.Semaphore(0))
    one, other = Asker("a", "1"), Asker("a", "2")
    lives = []
    for asker in (one, one, one, other):
        before = ASKER.set(asker)
        lives.append(LiveAnswer(model, TURNS, Sampling()).start())
        ASKER.reset(before)
    assert [live_answer._rest(0.03125, asker) for asker in (one, other)] == [3 * 2 * 3 * 0.03125, 2 * 3 * 0.03125]
    for live in lives:
        live.stop()
    model.open_gate()
    assert eventually(lambda: model.open_streams == 0)


def test_the_end_of_an_answer_is_shown_without_a_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """With many answers the rest is long, and all of them were shown as ended so much later."""
    monkeypatch.setattr(live_answer, "_rest", lambda *_: 3600.0)
    model = ScriptedModel(["all of it"], gate=threading.Semaphore(0))
    live, shown = LiveAnswer(model, TURNS, Sampling()).start(), list[str]()
    follower = threading.Thread(target=lambda: shown.extend(answer.text for answer in live.updates()), daemon=True)
    follower.start()
    assert eventually(lambda: shown == [""])
    model.open_gate()
    try:
        assert eventually(lambda: not follower.is_alive())
    finally:
        live.stop()
    assert shown[-1] == "all of it"


def test_stop_closes_a_stream_that_has_not_begun() -> None:
    model = Stubborn()
    live = LiveAnswer(model, TURNS, Sampling()).start()
    assert eventually(lambda: model.open_streams == 1)
    live.stop()
    assert eventually(lambda: model.open_streams == 0)
    live.stop()
    assert not live.is_running


def test_a_model_that_is_stopped_while_it_takes_the_question_is_not_asked_for_an_answer() -> None:
    """`stop` then finds no stream to close yet."""
    asked, may_go_on = threading.Event(), threading.Event()
    read: list[str] = []

    class Slow(ScriptedModel):
        def stream(self, turns: Sequence[Turn], sampling: Sampling) -> Stream:
            asked.set()
            may_go_on.wait()
            return GeneratorStream(self.answers())

        def answers(self) -> Generator[Answer]:
            read.append("begun")
            yield Answer(text="too late", finish_reason="stop")

    live = LiveAnswer(Slow(), TURNS, Sampling()).start()
    assert asked.wait(20)
    live.stop()
    may_go_on.set()
    assert eventually(lambda: not live._thread.is_alive())
    assert read == []
    assert [answer.text for answer in live.updates()] == [""]


def test_errors_come_after_the_text_before_them() -> None:
    class Breaking(ScriptedModel):
        def stream(self, turns: Sequence[Turn], sampling: Sampling) -> Stream:
            return GeneratorStream(self.answers())

        def answers(self) -> Generator[Answer]:
            yield Answer(text="so far")
            raise Busy("Too many questions.")

    ends: list[BaseException | None] = []
    live = LiveAnswer(Breaking(), TURNS, Sampling(), on_end=ends.append).start()
    assert eventually(lambda: not live.is_running)
    assert [answer.text for answer in live.updates()] == ["so far"]
    assert [type(error) for error in ends] == [Busy]


def test_all_can_be_ended_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those whose model is in the middle of something, too; what it then raises is nobody's concern."""
    monkeypatch.setattr(live_answer, "_being_written", set())
    ends: list[BaseException | None] = []
    lives = [LiveAnswer(Stubborn(), TURNS, Sampling(), on_end=ends.append).start() for _ in range(2)]
    done = LiveAnswer(ScriptedModel(["all of it"]), TURNS, Sampling(), on_end=ends.append).start()
    assert eventually(lambda: not done.is_running)
    reason = ShutDown("The server was stopped.")
    live_answer.end_all(reason)
    assert [live.is_running for live in lives] == [False, False]
    assert [live.error for live in (*lives, done)] == [reason, reason, None]
    assert ends == [None, reason, reason]
    live_answer.end_all(Busy("again"))
    assert ends == [None, reason, reason]


def test_what_fails_after_a_stop_is_nobodys_concern() -> None:
    model = ScriptedModel([Busy("Too many questions.")], gate=threading.Semaphore(0))
    ends: list[BaseException | None] = []
    live = LiveAnswer(model, TURNS, Sampling(), on_end=ends.append).start()
    assert eventually(lambda: model.open_streams == 1)
    live.stop()
    model.open_gate()
    assert eventually(lambda: not live._thread.is_alive())
    assert [answer.text for answer in live.updates()] == [""]
    assert ends == [None]


def test_a_model_that_refuses_at_once() -> None:
    class Refusing(ScriptedModel):
        def stream(self, turns: Sequence[Turn], sampling: Sampling) -> Stream:
            raise Busy("Too many questions.")

    ends: list[BaseException | None] = []
    assert [answer.text for answer in LiveAnswer(Refusing(), TURNS, Sampling(), on_end=ends.append).start().updates()]
    assert [type(error) for error in ends] == [Busy]


def test_a_stop_before_the_start_is_not_lost() -> None:
    model = ScriptedModel()
    live = LiveAnswer(model, TURNS, Sampling())
    live.stop()
    live.start()
    assert eventually(lambda: not live._thread.is_alive())
    assert model.seen == []


def test_several_readers_see_the_same_and_one_that_leaves_stops_nothing() -> None:
    model = ScriptedModel(["one two three"], gate=threading.Semaphore(0))
    live = LiveAnswer(model, TURNS, Sampling()).start()
    first, second = live.updates(), live.updates()
    assert (next(first).text, next(second).text) == ("", "")
    first.close()  # type: ignore[attr-defined]
    model.open_gate()
    assert list(second)[-1].text == "one two three"
