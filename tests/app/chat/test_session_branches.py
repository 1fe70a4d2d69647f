"""Questions that replace others, and the way back."""

from __future__ import annotations

import threading

import pytest

from app.chat.session import ChatSession, StillAnswering
from models.errors import RequestError
from tests.fakes import ScriptedModel
from tests.waiting import eventually


def questions(session: ChatSession) -> list[str]:
    return [exchange.question for exchange in session.exchanges]


def test_what_a_question_replaced_can_be_brought_back_and_goes_on() -> None:
    session, model = ChatSession(), ScriptedModel()
    for text in ("one", "two", "three"):
        list(session.ask(model, text))
    list(session.ask(model, "other", replacing=1))
    list(session.ask(model, "more"))
    assert questions(session) == ["one", "other", "more"]
    session.switch(1, -1)
    assert questions(session) == ["one", "two", "three"]
    list(session.ask(model, "four"))
    assert [turn.text for turn in model.seen[-1] if turn.role == "user"] == ["one", "two", "three", "four"]
    session.switch(1, 1)
    assert questions(session) == ["one", "other", "more"]
    list(session.ask(model, "third", replacing=1))
    for expected in (["one", "two", "three", "four"], ["one", "other", "more"], ["one", "third"]):
        session.switch(1, 1)
        assert questions(session) == expected
    assert len(session.all_exchanges()) == 7


def test_branches_within_a_branch_and_after_a_retry() -> None:
    session, model = ChatSession(), ScriptedModel()
    for text in ("one", "two"):
        list(session.ask(model, text))
    list(session.ask(model, "other two", replacing=1))
    list(session.retry(model))
    list(session.ask(model, "other one", replacing=0))
    session.switch(0, 1)
    assert questions(session) == ["one", "other two"]
    session.switch(1, 1)
    assert questions(session) == ["one", "two"]


def test_undo_of_an_edit_brings_back_what_it_replaced() -> None:
    session, model = ChatSession(), ScriptedModel()
    for text in ("one", "two", "three"):
        list(session.ask(model, text))
    list(session.ask(model, "other", replacing=1))
    undone = session.undo()
    assert undone is not None
    assert undone.question == "other"
    assert questions(session) == ["one", "two", "three"]
    with pytest.raises(RequestError, match="no longer there"):
        session.switch(3, 1)
    with pytest.raises(RequestError, match="only one version"):
        session.switch(0, 1)


def test_no_branch_is_left_while_its_answer_is_written() -> None:
    session, model = ChatSession(), ScriptedModel()
    list(session.ask(model, "one"))
    model.gate = threading.Semaphore(0)
    session.begin(model, "other", replacing=0)
    with pytest.raises(StillAnswering):
        session.switch(0, 1)
    session.stop()
    model.open_gate()
    assert eventually(lambda: model.open_streams == 0)
