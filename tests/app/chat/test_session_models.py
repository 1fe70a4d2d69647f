"""A conversation that goes on with another model: what that sees of it."""

from __future__ import annotations

from dataclasses import replace

from app.chat.session import ChatSession
from tests.app.helpers import picture
from tests.fakes import INFO, ScriptedModel


def named(name: str, *script: str, one_image: bool = False) -> ScriptedModel:
    return ScriptedModel([*script], info=replace(INFO, name=name, one_image_per_chat=one_image))


def test_another_model_reads_what_was_said_without_its_own_control_tokens() -> None:
    session = ChatSession()
    first, second = named("First", "a dog</s>"), named("Second")
    list(session.ask(first, "what is it?", [picture()]))
    assert session.turns(0, first)[0].text == "what is it?"
    list(session.ask(second, "which colour?"))
    assert [turn.text for turn in second.seen[-1]] == ["what is it?", "a dog< /s>", "which colour?"]
    assert [one.model for one in session.exchanges] == ["First", "Second"]
    list(session.ask(first, "and now?"))
    assert first.seen[-1][1].text == "a dog</s>"  # its own words as they were
    list(session.retry(second))
    assert session.exchanges[-1].model == "Second"


def test_a_model_of_one_image_per_chat_sees_the_last_one_on() -> None:
    session, many, one = ChatSession(), named("Many"), named("One", one_image=True)
    for colour in ("red", "blue"):
        list(session.ask(many, f"{colour}?", [picture(colour)]))
    assert [len(turns) for turns in many.seen] == [1, 3]
    list(session.ask(one, "and?"))
    assert [turn.text for turn in one.seen[-1]] == ["blue?", many.default, "and?"]
    assert [exchange.first_seen for exchange in session.exchanges] == [0, 0, 1]
    list(session.ask(many, "all of it?"))
    assert [len(turns) for turns in many.seen] == [1, 3, 7]
    assert session.exchanges[-1].first_seen == 0
