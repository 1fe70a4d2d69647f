"""Bubbles: what a visitor is shown of an exchange."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from app.messages import answer_bubble, describe_sampling, messages_of, question_bubble
from app.session import ChatSession, Exchange
from models.conversation import Answer, FinishReason, Sampling
from tests.app.helpers import picture


def exchange(text: str = "", finish: FinishReason | None = "stop", **answer: Any) -> Exchange:
    return Exchange("a question", (), Sampling(seed=5), replace(Answer(text=text, finish_reason=finish), **answer))


def bubble(item: Exchange, **options: bool) -> str:
    return answer_bubble(item, 0, picture(), **{"is_last": True, **options})


def test_a_grounded_answer_has_an_overlay_and_its_boxes_can_be_taken_along() -> None:
    html = bubble(exchange("<p>dog</p> {<1><2><30><40>}"))
    assert 'class="mv-overlay" role="img" aria-label="The image with marked regions. 1: dog"' in html
    for part in ("Copy boxes", "Save JSON", "Save image", "Raw answer", "&lt;p&gt;dog&lt;/p&gt;", "seed 5"):
        assert part in html


def test_a_plain_answer_has_none_of_that() -> None:
    html = bubble(exchange("a dog"))
    assert "<svg" not in html
    assert "Save JSON" not in html


def test_a_running_answer_has_no_buttons() -> None:
    assert "Reading the question" in bubble(exchange(finish=None))
    assert "Waiting for others: number 3 in the queue" in bubble(exchange(finish=None, queue_number=3))
    html = bubble(exchange("so far", finish=None))
    assert 'data-state="running"' in html
    assert "data-action" not in html


def test_only_the_last_answer_can_be_retried() -> None:
    assert 'data-action="retry"' in bubble(exchange("x"))
    assert 'data-action="retry"' not in bubble(exchange("x"), is_last=False)


@pytest.mark.parametrize(
    ("item", "text"),
    [
        (exchange("x", finish="length", num_new_tokens=300), "limit of new tokens"),
        (exchange("x", finish="cancelled"), "Stopped."),
        (exchange("", finish="cancelled"), "Stopped before the answer began"),
        (exchange("", finish="stop"), "answered with nothing"),
        (exchange("x", notices=("Mind the <gap>.",)), "Mind the &lt;gap&gt;."),
    ],
)
def test_notices(item: Exchange, text: str) -> None:
    assert text in bubble(item)


def test_an_answer_that_the_context_cut_short_does_not_blame_the_settings() -> None:
    html = bubble(exchange("x", finish="length", num_new_tokens=12, dropped_turns=2, notices=("Two were left out.",)))
    assert html.count('class="mv-note"') == 1
    assert "Two were left out." in html


@pytest.mark.parametrize("finish", ["cancelled", "length", None])
def test_half_written_markup_of_an_answer_that_was_cut_short_is_not_shown(finish: FinishReason | None) -> None:
    html = bubble(exchange("<p>dog</p> {<1><2><30><40>}, <p>a ca", finish))
    assert ", a ca<" in html.replace('<span class="mv-caret" aria-hidden="true"></span>', "")
    assert "&lt;p&gt;a ca</div>" in bubble(exchange("<p>a ca"))  # as the model ended it, so that is how it is shown


def test_buttons_are_called_what_is_written_on_them() -> None:
    names = re.findall(r'aria-label="([^"]*)">(Retry|Undo|Copy|Experts)<', bubble(exchange("x"), traced=True))
    assert [label for _, label in names] == ["Retry", "Undo", "Copy", "Experts"]
    assert all(name.startswith(label) for name, label in names)


def test_an_error_is_shown_escaped_and_as_an_alert() -> None:
    item = exchange("so far")
    item.error = "It <broke>."
    html = bubble(item)
    assert '<p class="mv-error" role="alert">It &lt;broke&gt;.</p>' in html
    assert 'data-state="failed"' in html
    assert 'data-action="retry"' in html


def test_the_image_is_in_the_page_once() -> None:
    session = ChatSession()
    red = picture()
    for index in range(3):
        item = exchange("<p>dog</p> {<1><2><30><40>}")
        item.pictures = (red,) if index == 0 else ()
        session.exchanges.append(item)
    html = "".join(message["content"].value for message in messages_of(session))
    assert html.count(red.preview_uri) == 1
    assert html.count(f'<use href="#mv-picture-{red.key}"/>') == 3


def test_a_box_that_was_asked_about_is_shown_in_the_question() -> None:
    item = Exchange("[identify] what is this {<1><2><30><40>}", (), Sampling())
    html = question_bubble(item, 2, picture())
    assert "mv-box" in html
    assert 'data-action="edit" data-index="2"' in html


def test_questions_say_what_happens_to_the_conversation() -> None:
    session = ChatSession()
    session.exchanges = [exchange("a dog") for _ in range(3)]
    session.exchanges[2].begins_anew = True
    session.editing = 1
    first, second, third = (message["content"].value for message in messages_of(session) if message["role"] == "user")
    assert "mv-note" not in first
    assert "mv-edited" in second
    assert "replaces this one and all below" in second
    assert "mv-edited" not in third
    assert "the model does not see what was said before" in third


def test_settings_in_words() -> None:
    assert describe_sampling(Sampling(temperature=0)).startswith("greedy · ")
    assert "temperature 0.6 · top-p 0.9 · seed 3" in describe_sampling(Sampling(temperature=0.6, seed=3))
