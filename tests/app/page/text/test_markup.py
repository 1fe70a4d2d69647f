"""Answers as HTML: everything escaped, phrases numbered, half-written markup held back."""

from __future__ import annotations

import re
import sys
from collections import Counter
from types import FrameType
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from app.page.text.markup import answer_html, question_html
from models.grounding import Box, BoxSpan, Phrase, parse_grounded_text
from tests.app.page.text.html_reader import Reader

PIECES = [
    "<p>",
    "</p>",
    "{<1><2><30><40>}",
    "<delim>",
    "{<",
    "<5>",
    "}",
    "dog",
    " ",
    "<script>",
    "&amp;",
    '"',
    "'",
    "\n",
    *(
        "\n\n",
        "**",
        "*",
        "_",
        "~~",
        "`",
        "```",
        "- ",
        "1. ",
        "# ",
        "> ",
        "|",
        "\n|-|-|\n",
        "[",
        "](",
        "https://a.b/",
        ")",
        "!",
    ),
    *(
        "$",
        "$$",
        "\\(",
        "\\)",
        "\\[",
        "\\]",
        "\\frac{a}{b}",
        "\\text{",
        "x^2",
        "\\",
        "<https://a.b>",
        "javascript:alert(1)",
        "---",
    ),
    *("\ufdda\ufdd0\ufddc", "\ufddd", "\x00", "\u202e", "الكلب"),
]
markup = st.lists(st.sampled_from(PIECES) | st.text(max_size=4), max_size=14).map("".join)


def test_boxes_of_another_writing_are_phrases_and_their_markup_is_not_shown() -> None:
    text = 'Here: {"x": 1} and <tag> {<1><2><3><4>}.'
    exact = Box(0.123, 0.2, 0.3, 0.4)
    html, entities = answer_html(text, spans=(BoxSpan(6, 14, "a **dog**", (exact,)), BoxSpan(19, 24)))
    assert [(entity.label, entity.boxes) for entity in entities] == [("a **dog**", (exact,))]
    assert Reader(html).text == "Here: a **dog** and  {<1><2><3><4>}."
    assert answer_html(text, spans=())[1] == []
    assert len(answer_html(text)[1]) == 1


def test_plain_text_stays_readable() -> None:
    html, entities = answer_html("one < two\n  & three")
    assert (html, entities) == ("one &lt; two\n  &amp; three", [])


def test_phrases_are_numbered_and_the_same_phrase_has_one_number() -> None:
    box, other = "{<0><0><50><50>}", "{<50><50><99><99>}"
    html, entities = answer_html(f"<p>a dog</p> {box} and <p>cat</p> {other}, then <p>A  Dog</p> {other}")
    assert [(e.number, e.label, len(e.boxes)) for e in entities] == [(1, "a dog", 2), (2, "cat", 1)]
    assert html.count('data-entity="1"') == 2
    assert entities[0].colour != entities[1].colour


def test_bare_boxes_have_numbers_of_their_own() -> None:
    html, entities = answer_html("{<0><0><10><10>} {<20><20><30><30>}")
    assert [entity.number for entity in entities] == [1, 2]
    assert "Box, region 2: x 20% to 30%, y 20% to 30%" in html


@pytest.mark.parametrize(
    "text",
    [
        "<p>dog</p>",
        "<p>dog {<1><2><3>}",
        "{<1><2><3><x>}",
        "{1,2,3,4}",
        "in 2020, 3 of 10 people, 5",
        "<p></p></p>",
        "{<1><2><3><4><5>}",
        "<delim>",
    ],
)
def test_malformed_markup_is_shown_as_text(text: str) -> None:
    html, entities = answer_html(text)
    assert entities == []
    assert Reader(html).text == text


HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    '<p>"><img src=x onerror=alert(1)></p> {<1><2><3><4>}',
    "<p>' onmouseover='alert(1)</p> {<1><2><3><4>}",
    "</button></div><iframe src=javascript:alert(1)>",
    "<svg onload=alert(1)>",
    "[x](javascript:alert(1)) <javascript:alert(1)> [y](data:text/html,x) [z](JaVaScRiPt&colon;alert(1))",
    "![x](https://example.org/spy.png) [a]: https://example.org/spy\n\n[a] ![a]",
    '[x](https://e.org/"onclick="alert(1) "t\\" onclick=alert(1)")',
    "```<img src=x>\n</code></pre><img src=x onerror=alert(1)>\n```",
    "| <b> | <i> |\n|---|---|\n| <img src=x> | `<script>` |",
    r"$\text{<img src=x onerror=alert(1)>}$ and $\href{javascript:alert(1)}{x^2}$",
    r"$\style{background:url(//e.org)}{x^2}$",
    r"\[ \class{mv-error}{x} \text{</mtext></math><script>alert(1)</script>} \]",
    r"$$ \color{red;background:url(https://e.org)}{x} \unicode{<script>} $$",
    "<details open ontoggle=alert(1)> <a href=x> <style>*{display:none}</style> <!-- --> <![CDATA[ ]]> <?x ?>",
]


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("unfinished", [False, True])
def test_nothing_gets_through(text: str, unfinished: bool) -> None:
    for end in range(len(text) if unfinished else 0, len(text) + 1):
        Reader(answer_html(text[:end], unfinished=unfinished)[0]).check_allowed()
    for html in (answer_html(f"- **{text}**")[0], question_html(text), answer_html("# a\n\n" + text)[0]):
        Reader(html).check_allowed()


@settings(max_examples=400)
@given(markup)
@example("<p>{<1><2><3><4>}</p>{<1><2><3><4>}")
@example('<p>"</p>{<1><2><30><40>}<delim>')
@example("[a](https://a.b/<p>dog</p> {<1><2><3><4>})\n\n# x")
@example("```<p>dog</p> {<1><2><3><4>}\nx\n```")
@example("\ufdda\ufdd0\ufddc<p>dog</p> {<1><2><3><4>}# x")
def test_any_text_is_safe_and_no_phrase_is_lost(text: str) -> None:
    phrases = [part for part in parse_grounded_text(text) if isinstance(part, Phrase)]
    for unfinished in (False, True):
        html, entities = answer_html(text, unfinished=unfinished)
        reader = Reader(html)
        reader.check_allowed()
        assert reader.tags.count("button") - html.count("data-copy") == len(phrases)
        assert [entity.number for entity in entities] == list(range(1, len(entities) + 1))
        assert not re.search("[\ufdd0-\ufddf]", html)


@given(markup)
def test_words_stay_in_their_order_whatever_stands_between_them(text: str) -> None:
    """What Markdown leaves out are marks: every letter and digit of a text is still there."""
    reader = Reader(answer_html(text)[0])
    parts = parse_grounded_text(text)
    expected = "".join(part.text if isinstance(part, Phrase) else part for part in parts)
    kept, given_ = (Counter(re.findall(r"[a-z]", shown)) for shown in (reader.text, expected))
    if "\\" not in text and "$" not in text and "```" not in text:  # formulas and names of languages
        assert given_ <= kept


@given(markup)
def test_questions_are_shown_as_they_were_typed(text: str) -> None:
    parts = parse_grounded_text(text)
    reader = Reader(question_html(text))
    assert reader.text == "".join(part.text if isinstance(part, Phrase) else part for part in parts)
    assert set(reader.tags) <= {"button"}


@settings(max_examples=50)
@given(markup)
def test_streaming_never_raises_and_the_final_text_is_complete(text: str) -> None:
    for end in range(len(text) + 1):
        answer_html(text[:end], unfinished=True)
    assert answer_html(text)[0] == answer_html(text, unfinished=False)[0]


def test_half_written_markup_does_not_flash_up() -> None:
    text = "See <p>the red dog</p> {<1><2><3><4>}<delim>{<5><6><7><8>} there"
    for end in range(len(text) + 1):
        shown = Reader(answer_html(text[:end], unfinished=True)[0]).text
        assert not set("<>{}") & set(shown), shown
    assert Reader(answer_html("5 < 6 and more", unfinished=True)[0]).text == "5 < 6 and more"


def test_plain_prose_looks_as_ever() -> None:
    text = "A red circle (2 * 3 cm) lies over_the_blue square.\n  It is #1 of 5 < 6; it costs $5 or $6 &amp;!\n\n\nEnd"
    html, _ = answer_html(text)
    assert Reader(html).tags == []
    assert Reader(html).text == text
    assert Reader(answer_html(text, unfinished=True, caret="|")[0]).text == text + "|"


@pytest.mark.parametrize("text", ["-", "#", "*", "+", "---", "```", "> ", "1.", "|", "**", "[](", "$", "\\"])
def test_an_answer_of_nothing_but_marks_is_shown(text: str) -> None:
    assert Reader(answer_html(text)[0]).text == text


def test_names_of_phrases_begin_with_what_they_read_and_numbers_are_no_text() -> None:
    html, _ = answer_html("<p>a red circle</p> {<10><20><45><60>}")
    assert 'aria-label="a red circle, region 1: x 10% to 45%, y 20% to 60%"' in html
    assert Reader(html).text == "a red circle"


def steps(action: Any) -> int:
    """How many calls and lines of Python an action takes: its work, on any machine."""
    count = 0

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal count
        count += 1
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        action()
    finally:
        sys.settrace(before)
    return count


@pytest.mark.parametrize(
    "piece",
    [
        *(
            " ",
            "\n",
            "<p>",
            "</p>",
            "<p>a</p> ",
            "{",
            "{<1>",
            "<delim>",
            "<p> {<1><2><3><4>} ",
            "[",
            "](",
            "[a](",
            "**a ",
            "*_",
        ),
        *(
            "`",
            "`a``b",
            "$",
            "$x^",
            "\\(",
            "\\[\n",
            "$$\n",
            "|",
            "|a|\n",
            "> ",
            "- ",
            "1. a\n",
            "\\",
            "<a:",
            "~~a ",
            "![[",
        ),
    ],
)
@pytest.mark.parametrize("unfinished", [True, False])
def test_work_grows_with_the_length_and_not_faster(piece: str, unfinished: bool) -> None:
    few, many = (steps(lambda n=n: answer_html(piece * n + "<", unfinished=unfinished)) for n in (150, 600))
    assert many <= 5 * few + 3000
