"""Two answers in the conversation and in a saved page."""

from __future__ import annotations

from dataclasses import replace

import pytest

from app.chat.answering import Rival
from app.chat.session import ChatSession
from app.page.messages import Bubble, messages_of
from app.page.page_state import PageState
from app.page.saved_page import chat_html
from models.conversation import Sampling
from tests.app.helpers import picture
from tests.fakes import INFO, ScriptedModel

LEFT = "<p>circle</p> {<10><10><40><40>} <p>bird</p> {<60><60><90><90>}"
RIGHT = "<p>disc</p> {<10><10><41><40>}"


def asked(right: ScriptedModel, **settings: float) -> PageState:
    page = PageState()
    rival = Rival(model=right, sampling=Sampling(**settings))  # type: ignore[arg-type]
    left = ScriptedModel([LEFT])
    list(page.session.ask(left, "[detection] thing", [picture()], Sampling(temperature=0), rival=rival))
    return page


def text(bubble: Bubble) -> str:
    return bubble if isinstance(bubble, str) else "".join(map("".join, bubble))


@pytest.fixture
def page() -> PageState:
    return asked(ScriptedModel([RIGHT], info=replace(INFO, name="Other")))


def test_boxes_that_one_alone_has_are_bold(page: PageState) -> None:
    question, left, right, verdict = map(text, messages_of(page))
    assert 'aria-label="Question 1"' in question
    assert 'aria-label="Answer 1, left"' in left
    assert 'data-exchange="0-right"' in right
    assert ("&quot;only&quot;: [false]" in left, "&quot;only&quot;: [true]" in left) == (True, True)
    assert "&quot;only&quot;: [true]" not in right
    assert [one.count('stroke-width="9"') for one in (left, right)] == [1, 0]  # the bird
    assert [one.count('stroke-width="3" stroke-opacity') for one in (left, right)] == [1, 1]
    assert "Boxes: 1 in both, 1 only left, 0 only right. What only one of them found is drawn bold." in verdict
    assert "The conversation goes on with this answer." in left
    assert 'data-action="go_on" data-index="0" data-side="right"' in right
    assert [one.count('data-action="retry"') for one in (left, right, verdict)] == [0, 0, 1]


def test_going_on_with_the_other_moves_the_mark(page: PageState) -> None:
    page.session.go_on_with(0, "right")
    _, left, right, _ = map(text, messages_of(page))
    assert ("goes on with this answer" in left, "goes on with this answer" in right) == (False, True)
    list(page.session.ask(ScriptedModel(), "and now?"))
    assert 'data-action="go_on"' not in str(messages_of(page))


def test_one_model_with_two_settings_says_which(page: PageState) -> None:
    assert ">Right · Other<" in text(messages_of(page)[2])
    _, left, right, _ = map(text, messages_of(asked(ScriptedModel([RIGHT]), temperature=0.7)))
    assert ">Left · Scripted model · greedy" in left
    assert ">Right · Scripted model · temperature 0.7" in right


def test_a_saved_page_has_both_and_the_vote(page: PageState) -> None:
    session: ChatSession = page.session
    assert session.exchanges[0].pair is not None
    session.exchanges[0].pair.vote = "both bad"
    saved = chat_html(session.exchanges, saved="2026-11-29T12:00:00+00:00")
    assert saved.count('class="mv-message mv-answer mv-side"') == 2
    assert "Vote: both bad." in saved
    assert "1 in both, 1 only left" in saved
    assert "Scripted model, Other" in saved
    assert "data-action" not in saved.partition("<script>")[0]
