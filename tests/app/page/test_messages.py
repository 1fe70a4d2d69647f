"""Bubbles: what a visitor is shown of an exchange."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html import unescape
from typing import Any

import pytest
from gradio.utils import diff

from app.chat.exchange import Exchange
from app.page.bubble_parts import describe_sampling
from app.page.messages import Bubble, _known, answer_bubble, messages_of, question_bubble
from app.page.page_state import PageState
from models.conversation import Answer, FinishReason, Sampling
from tests.app.helpers import picture


def exchange(text: str = "", finish: FinishReason | None = "stop", **answer: Any) -> Exchange:
    return Exchange("a question", (), Sampling(seed=5), replace(Answer(text=text, finish_reason=finish), **answer))


def bubble(item: Exchange, **options: Any) -> str:
    return answer_bubble(item, 0, picture(), **{"is_last": True, **options})


def test_a_grounded_answer_has_an_overlay_and_its_boxes_can_be_taken_along() -> None:
    html = bubble(exchange("<p>dog</p> {<1><2><30><40>}"))
    assert 'class="mv-overlay" role="img" aria-label="The image with marked regions. 1: dog"' in html
    for part in ("Copy boxes", "Save JSON", "Save image", "Raw answer", "&lt;p&gt;dog&lt;/p&gt;", "seed 5"):
        assert part in html


def test_every_bubble_says_which_exchange_picture_and_regions_it_has() -> None:
    item = exchange('<p>a "dog"</p> {<0><10><30><40>}<delim>{<50><50><100><100>}')
    item.question = "[identify] what is this {<1><2><30><40>}"
    red = picture()
    for html, entities in (
        (
            answer_bubble(item, 4, red, is_last=True),
            [('a "dog"', [[0.005, 0.105, 0.305, 0.405], [0.505, 0.505, 1.0, 1.0]])],
        ),
        (question_bubble(item, 4, red), [("", [[0.015, 0.025, 0.305, 0.405]])]),
    ):
        opening = html.partition(">")[0]
        assert f'data-exchange="4" data-picture="{red.key}"' in opening
        regions = json.loads(unescape(re.search(r'data-regions="([^"]*)"', opening)[1]))  # type: ignore[index]
        assert [(region["label"], region["boxes"]) for region in regions] == entities
        assert [(region["number"], region["colour"]) for region in regions] == [(1, "#0072b2")]
    assert 'data-picture="" data-regions="[]"' in answer_bubble(exchange("a dog"), 0, None, is_last=True)


def test_the_phrase_that_was_asked_for_names_the_box_everywhere() -> None:
    item = exchange("{<1><2><30><40>}")
    item.question, item.phrase = "[refer] the red circle", "the red circle"
    html = unescape(bubble(item))
    assert "▢" not in html
    assert ">the red circle</button>" in html
    assert 'aria-label="The image with marked regions. 1: the red circle"' in html
    assert ">1 the red circle</text>" in html  # what Save image draws
    assert html.count('"label": "the red circle"') == 3  # Copy boxes, Save JSON, and for the scripts


def test_pixels_are_those_of_the_file_not_of_the_smaller_copy_that_is_kept() -> None:
    large = replace(picture(), original_size=(8000, 4000))
    html = unescape(answer_bubble(exchange("<p>dog</p> {<0><0><99><99>}"), 0, large, is_last=True))
    assert '"width": 8000, "height": 4000' in " ".join(html.split())


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
    names = re.findall(r'aria-label="([^"]*)">(Retry|Undo|Copy|Experts)<', bubble(exchange("x"), has_experts=True))
    assert [label for _, label in names] == ["Retry", "Undo", "Copy", "Experts"]
    assert all(name.startswith(label) for name, label in names)


def test_an_error_is_shown_escaped_and_as_an_alert() -> None:
    item = exchange("so far")
    item.error = "It <broke>."
    html = bubble(item)
    assert '<p class="mv-error" role="alert">It &lt;broke&gt;.</p>' in html
    assert 'data-state="failed"' in html
    assert 'data-action="retry"' in html


def written(bubble: Bubble) -> str:
    """A bubble as one text."""
    if isinstance(bubble, str):
        return bubble
    return "".join("".join(part) if isinstance(part, list) else part for part in bubble) + "</div>"


def test_the_image_is_in_the_page_once_and_its_pixels_are_asked_for() -> None:
    page = PageState()
    red = picture()
    for index in range(3):
        item = exchange("<p>dog</p> {<1><2><30><40>}")
        item.pictures = (red,) if index == 0 else ()
        page.session.exchanges.append(item)
    html = "".join(map(written, messages_of(page)))
    assert html.count(f'data-pixels="{red.key}"') == 1
    assert html.count(f'<use href="#mv-picture-{red.key}"/>') == 3
    assert "data:image" not in html


def test_of_the_last_answer_only_what_is_new_differs() -> None:
    page = PageState()
    rows = [f"| row {index} | a <p>dog</p> {{<1><{index}><30><60>}} |" for index in range(40)]
    item = exchange(finish=None)
    item.pictures = (picture(),)
    page.session.exchanges = [exchange("a dog"), item]
    drawn = []
    for count in (38, 39):
        item.answer = Answer(text="\n".join(["| a | b |", "|-|-|", *rows[:count]]))
        drawn.append(messages_of(page))
    (_, _, question, before), (_, _, _, after) = drawn
    assert drawn[0][:2] == drawn[1][:2]
    assert isinstance(question, str)
    assert isinstance(before, list)
    assert before[0] == after[0]  # the regions for the stage, and the picture with them, wait for some more
    assert before[2:] == after[2:]
    assert "".join(after[1]).count("mv-phrase") == 39
    assert len(json.dumps(diff(before, after))) < 0.1 * len("".join(after[1]))  # what gradio sends of it
    item.answer = Answer(text=item.text, finish_reason="stop")
    last = messages_of(page)[-1]
    assert unescape(str(last[0])).count('"number"') == 1
    assert "".join(last[2]).count("mv-box-line") == 39
    assert written(last) == answer_bubble(item, 1, picture(), is_last=True)


def test_a_box_that_was_asked_about_is_shown_in_the_question() -> None:
    item = Exchange("[identify] what is this {<1><2><30><40>}", (), Sampling())
    html = question_bubble(item, 2, picture())
    assert "mv-box" in html
    assert 'data-action="edit" data-index="2"' in html


def test_questions_say_what_happens_to_the_conversation() -> None:
    page = PageState(editing=1)
    page.session.exchanges = [exchange("a dog") for _ in range(3)]
    page.session.exchanges[0].pictures = (picture(),)
    page.session.exchanges[2].begins_anew = True
    first, second, third = messages_of(page)[::2]
    assert "mv-note" not in first
    assert "mv-edited" in second
    assert "replaces this one and all below" in second
    assert "mv-edited" not in third
    assert "the model does not see what was said before" in third


def test_settings_in_words() -> None:
    sampling = Sampling(temperature=0.6, seed=3)
    words = describe_sampling(sampling).split(" · ")
    assert words[:2] == ["temperature 0.6", "top-p 0.9"]
    assert {"seed 3", "repetition penalty 1.05"} < set(words)
    assert words[-1] == "at most 300 tokens"
    greedy = describe_sampling(replace(sampling, temperature=0)).split(" · ")
    assert greedy[0] == "greedy"
    assert greedy[-2:] == ["repetition penalty 1.05", "at most 300 tokens"]
    assert not {"temperature 0", "top-p 0.9", "seed 3"} & set(greedy)


def test_bubbles_are_kept_of_what_is_shown_only() -> None:
    """Of the branches that a conversation left by edits they were kept, too, and counted by nobody."""
    page, first, second = PageState(), exchange("one"), exchange("two")
    for item in (first, second):
        page.session.exchanges = [item]
        messages_of(page)
    assert (first in _known, second in _known) == (False, True)
