"""The meter under the last answer, and the offer of a new chat once a conversation is long."""

from __future__ import annotations

import pytest

from app.chat.exchange import Exchange
from app.page.context_meter import LONG_TURNS, context_html
from models.conversation import Answer, Sampling


def line(num_tokens: int = 100, num_turns: int = 1, *, dropped: int = 0, has_picture: bool = True) -> str:
    answer = Answer(
        text="yes", finish_reason="stop", num_prompt_tokens=num_tokens, num_new_tokens=20, dropped_turns=dropped
    )
    return context_html(Exchange("?", (), Sampling(), answer), num_turns, 1000, has_picture=has_picture)


def test_a_short_chat_has_a_meter_alone() -> None:
    assert 'value="0.120"' in line(100)
    assert "120 of the 1,000 tokens" in line(100)
    assert "<button" not in line(100)


@pytest.mark.parametrize(("tokens", "turns", "dropped"), [(580, 1, 0), (10, LONG_TURNS, 0), (10, 1, 2)])
def test_a_long_chat_offers_a_new_one(tokens: int, turns: int, dropped: int) -> None:
    assert ">New chat with this picture</button>" in line(tokens, turns, dropped=dropped)
    assert ">New chat</button>" in line(tokens, turns, dropped=dropped, has_picture=False)


def test_more_than_the_context_is_a_full_meter() -> None:
    assert 'value="1.000"' in line(5000)


def test_nothing_while_the_answer_is_written_or_without_numbers() -> None:
    assert context_html(Exchange("?", (), Sampling()), 1, 1000, has_picture=True) == ""
    running = Exchange("?", (), Sampling(), Answer(text="y", num_prompt_tokens=3))
    assert context_html(running, 1, 1000, has_picture=True) == ""
    assert line(-20) == ""
