"""An answer that is drawn again and again while it is written reads each time as if it had not been drawn before."""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.chat import regions
from app.page.text import markup
from app.page.text.markup import GrowingAnswer, answer_html
from models.grounding import Phrase
from tests.app.page.text.tokens import TOKENS


@given(st.lists(st.sampled_from(TOKENS), max_size=25), st.sampled_from(("", "the phrase")))
@settings(max_examples=150, deadline=None)
def test_every_step_is_the_whole_text(tokens: list[str], phrase: str) -> None:
    growing = GrowingAnswer(phrase)
    for text in accumulate(tokens):
        pieces, entities = growing.pieces(text, unfinished=True, caret="|")
        assert ("".join(pieces), entities) == answer_html(text, phrase=phrase, unfinished=True, caret="|")
    text = "".join(tokens)
    pieces, entities = growing.pieces(text)
    assert ("".join(pieces), entities) == answer_html(text, phrase=phrase)


def test_a_text_that_is_another_one_is_drawn_anew() -> None:
    growing = GrowingAnswer()
    first = "<p>dog</p> {<1><1><2><2>} and <p>cat</p> {<3><3><4><4>} and <p>cow</p> {<5><5><6><6>}"
    growing.pieces(first, unfinished=True)
    for text in (first.replace("dog", "pig"), "nothing", first):
        pieces, entities = growing.pieces(text)
        assert ("".join(pieces), entities) == answer_html(text)


def test_only_the_end_of_a_growing_answer_is_read_and_made(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    made: list[str] = []
    parse, button = regions.parse_answer, markup._phrase_html.__wrapped__

    def counted_parse(text: str, *rest: Any) -> list[str | Phrase]:
        read.append(len(text))
        return parse(text, *rest)

    def counted_button(phrase: Phrase, *look: Any) -> str:
        made.append(phrase.text)
        return str(button(phrase, *look))

    monkeypatch.setattr(markup, "parse_answer", counted_parse)
    monkeypatch.setattr(markup, "_phrase_html", counted_button)
    tokens = [f"a <p>thing {index}</p> {{<1><2><30><{index}>}} and " for index in range(60)]
    growing = GrowingAnswer()
    settled = ""
    for text in accumulate(tokens):
        pieces, _ = growing.pieces(text, unfinished=True)
        assert pieces[0].startswith(settled)  # what is new of it is sent alone
        settled = pieces[0] if len(pieces) > 1 else ""
        assert len(pieces) < 8
    assert len(settled) > 0.9 * len("".join(pieces))
    assert max(read) < 4 * len(tokens[-1])
    assert len(made) < 4 * len(tokens)
