"""Saved chats in which a question has two answers."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from app.chat.answering import Rival
from app.chat.exchange import Exchange
from app.chat.saved import chat_json
from app.chat.session import ChatSession
from models.conversation import Sampling
from models.errors import RequestError
from tests.app.chat.saved_chats import NOW, opened
from tests.app.helpers import picture
from tests.fakes import INFO, ScriptedModel


def compared() -> list[Exchange]:
    session = ChatSession()
    rival = Rival(
        model=ScriptedModel(["a {<1><2><3><4>}"], info=replace(INFO, name="Other")), sampling=Sampling(seed=9)
    )
    list(session.ask(ScriptedModel(["a dog"]), "what?", [picture()], rival=rival))
    session.go_on_with(0, "right")
    assert session.exchanges[0].pair is not None
    session.exchanges[0].pair.vote = "both bad"
    return session.exchanges


def test_both_answers_come_back_and_the_one_that_goes_on() -> None:
    (exchange,) = opened(chat_json(compared(), saved=NOW).encode())
    assert exchange.pair is not None
    assert (exchange.side, exchange.pair.vote) == ("right", "both bad")
    assert [(one.model, one.text) for one in exchange.answers] == [
        ("Scripted model", "a dog"),
        ("Other", "a {<1><2><3><4>}"),
    ]
    assert exchange.sampling.seed == 9


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("side", "middle", 'compared.side must be "left" or "right"'),
        ("vote", "<script>", "compared.vote must be"),
        ("answer", None, "compared.answer must be there"),
        ("picture", 1, "compared has a field that is not known: 'picture'"),
    ],
)
def test_the_other_answer_is_checked_as_well(field: str, value: Any, said: str) -> None:
    data = json.loads(chat_json(compared(), saved=NOW))
    data["exchanges"][0]["compared"][field] = value
    with pytest.raises(RequestError, match=said):
        opened(data)
