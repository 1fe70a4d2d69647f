"""Who reads an answer while it is written, and who may read it at all."""

from __future__ import annotations

import threading

from app.chat.session import ChatSession
from tests.fakes import ScriptedModel
from tests.waiting import eventually


def test_an_answer_goes_on_while_nobody_watches_and_can_be_watched_again() -> None:
    session, model = ChatSession(), ScriptedModel(["one two three"], gate=threading.Semaphore(1))
    exchange = session.begin(model, "count")
    watching = session.watch()
    next(watching)
    watching.close()  # type: ignore[attr-defined]
    assert session.is_answering
    model.open_gate()
    assert [seen.text for seen in session.watch()][-1] == "one two three"
    assert eventually(lambda: not session.is_answering)
    assert not exchange.is_running


def test_an_answer_that_nobody_ever_watched_is_there_all_the_same() -> None:
    session = ChatSession()
    exchange = session.begin(ScriptedModel(["a dog"]), "what is it?")
    assert eventually(lambda: not session.is_answering)
    assert (exchange.text, exchange.is_running) == ("a dog", False)


def test_a_new_conversation_has_a_key_that_says_nothing_about_the_last() -> None:
    session, model = ChatSession(), ScriptedModel()
    list(session.ask(model, "one"))
    first = session.key
    list(session.ask(model, "two"))
    assert session.key == first
    session.reset()
    assert session.key == ""
    list(session.ask(model, "one"))
    assert len(session.key) == len(first) == 32
    assert session.key != first
