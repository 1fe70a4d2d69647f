"""A question with two answers at the same time."""

from __future__ import annotations

import pickle
import threading
from dataclasses import replace

import pytest

from app.chat.answering import Rival
from app.chat.session import ChatSession
from models.conversation import Sampling
from models.errors import RequestError
from tests.app.helpers import picture
from tests.fakes import INFO, ScriptedModel
from tests.waiting import eventually


def named(name: str, *script: str | Exception, gate: threading.Semaphore | None = None) -> ScriptedModel:
    return ScriptedModel([*script], info=replace(INFO, name=name), gate=gate)


def texts(session: ChatSession, index: int = -1) -> list[str]:
    return [one.text for one in session.exchanges[index].answers]


def test_both_answer_at_once_and_the_conversation_goes_on_with_either() -> None:
    session = ChatSession()
    left, right = named("Left", "a dog", "brown"), named("Right", "a cat", "black")
    list(session.ask(left, "what is it?", [picture()], Sampling(seed=1), rival=Rival(model=right)))
    (exchange,) = session.exchanges
    assert [(one.side, one.model, one.text) for one in exchange.answers] == [
        ("left", "Left", "a dog"),
        ("right", "Right", "a cat"),
    ]
    assert [len(model.seen[0][0].images) for model in (left, right)] == [1, 1]
    session.go_on_with(0, "right")
    list(session.ask(left, "which colour?", rival=Rival(model=right)))
    assert [turn.text for turn in left.seen[-1]] == ["what is it?", "a cat", "which colour?"]
    assert left.seen[-1] == right.seen[-1]
    with pytest.raises(RequestError, match="went on with the other answer"):
        session.go_on_with(0, "left")
    list(session.ask(left, "alone?"))
    with pytest.raises(RequestError, match="one answer only"):
        session.go_on_with(2, "right")


def test_one_model_with_two_settings() -> None:
    session, model = ChatSession(), named("One", "cool", "hot")
    other = Rival(model=model, sampling=Sampling(temperature=1.5, seed=4))
    list(session.ask(model, "how?", [picture()], Sampling(temperature=0, seed=3), rival=other))
    assert sorted((one.temperature, one.seed or 0) for one in model.samplings) == [(0, 3), (1.5, 4)]
    assert [one.sampling.temperature for one in session.exchanges[0].answers] == [0, 1.5]


def test_they_are_watched_and_stopped_together() -> None:
    session = ChatSession()
    left = named("Left", "one two three", gate=threading.Semaphore(0))
    right = named("Right", "four five six", gate=threading.Semaphore(0))
    session.begin(left, "count", [picture()], rival=Rival(model=right))
    updates = session.watch()
    assert left.gate is not None
    assert right.gate is not None
    right.gate.release(2)  # the slower one is not waited for
    assert any(texts(session) == ["", "four five"] for _ in updates)
    left.gate.release()
    assert any(texts(session) == ["one", "four five"] for _ in updates)
    assert session.num_answering == 2
    with pytest.raises(RequestError, match="still being written"):
        session.go_on_with(0, "right")
    session.stop()
    assert [one.answer and one.answer.finish_reason for one in session.exchanges[0].answers] == ["cancelled"] * 2
    assert list(updates)[-1] is session.exchanges[0]
    left.open_gate()
    right.open_gate()
    assert eventually(lambda: left.open_streams == right.open_streams == 0)
    assert session.num_answering == 0


def test_the_error_of_one_leaves_the_other() -> None:
    session = ChatSession()
    rival = Rival(model=named("Right", RequestError("It is full.")))
    list(session.ask(named("Left", "fine"), "how?", [picture()], rival=rival))
    assert texts(session) == ["fine", ""]
    assert [one.error for one in session.exchanges[0].answers] == ["", "It is full."]


def test_a_retry_answers_both_and_what_fails_brings_its_old_answer_back() -> None:
    session = ChatSession()
    left, right = named("Left", "first", "second"), named("Right", "third", RequestError("no"))
    list(session.ask(left, "how?", [picture()], rival=Rival(model=right)))
    list(session.retry(left, rival=Rival(model=right)))
    assert texts(session) == ["second", "third"]
    assert session.exchanges[0].answers[1].error == "no"
    list(session.retry(left))  # without Compare: one answer
    assert texts(session) == [left.default]


def test_a_question_that_one_of_them_cannot_be_asked_is_not_asked() -> None:
    session, left = ChatSession(), named("Left")
    right = ScriptedModel(info=replace(INFO, max_images_per_turn=1))
    left.info = replace(INFO, max_images_per_turn=2)
    with pytest.raises(RequestError, match="one image"):
        session.begin(left, "which?", [picture("red"), picture("blue")], rival=Rival(model=right))
    assert session.exchanges == []
    assert left.seen == []


def test_versions_of_a_question_keep_their_pairs_and_so_does_a_file() -> None:
    session, left, right = ChatSession(), named("Left", "1", "2"), named("Right", "3", "4")
    list(session.ask(left, "a?", [picture()], rival=Rival(model=right)))
    session.go_on_with(0, "right")
    list(session.ask(left, "b?", [picture()], replacing=0, rival=Rival(model=right)))
    assert len(session.all_exchanges()) == 4
    session.switch(0, -1)
    session = pickle.loads(pickle.dumps(session))
    assert (session.exchanges[0].side, texts(session)) == ("right", ["1", "3"])
    session.go_on_with(0, "left")
    session.switch(0, 1)
    assert texts(session) == ["2", "4"]
    session.undo()
    assert (session.exchanges[0].side, texts(session)) == ("left", ["1", "3"])
