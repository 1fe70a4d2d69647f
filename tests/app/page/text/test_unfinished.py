"""The half-written end of an answer: what is held back, and what is shown as it will be."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.page.text.markup import answer_html
from app.page.text.unfinished import MAX_OPEN, open_ticks, with_table_rule, without_half_written_box


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("See <p>the red", "See the red"),
        ("See <p>the red ", "See the red "),
        ("See <p>", "See "),
        ("See <p", "See "),
        ("See <", "See "),
        ("<p>dog</p>", "dog"),
        ("<p>dog</", "dog"),
        ("<p>dog</p> {<1><2>", "dog"),
        ("<p>dog</p> {", "dog"),
        ("<delim>{<5><6", ""),
        ("so <del", "so "),
        ("a{", "a"),
        ("5 < 6", "5 < 6"),
        ("5 < 6 and more", "5 < 6 and more"),
        ("{<1><2><3><4><5>}", "{<1><2><3><4><5>}"),
        ("<p>dog</p> runs", "<p>dog</p> runs"),
        ("1 > 0 - 7", "1 > 0 - 7"),
        ("", ""),
    ],
)
def test_half_of_a_box_is_held_back(text: str, shown: str) -> None:
    assert without_half_written_box(text) == shown


@given(st.lists(st.sampled_from(["<p>", "</p>", "{<1>", "<2>", "<delim>", "a", " ", "<", "}", "\n"]), max_size=8))
def test_nothing_but_marks_of_boxes_is_held_back(pieces: list[str]) -> None:
    text = "".join(pieces)
    shown = without_half_written_box(text)
    assert shown.count("a") == text.count("a")
    assert without_half_written_box(text + " end") == text + " end" or "<p>" in text


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("See **bo", '<p dir="auto">See <strong>bo</strong>|</p>'),
        ("See **bold*", '<p dir="auto">See <strong>bold</strong>|</p>'),
        ("a *b **c ", '<p dir="auto">a <em>b <strong>c</strong></em>|</p>'),
        ("~~gone", '<p dir="auto"><s>gone</s>|</p>'),
        ("a `co", '<p dir="auto">a <code dir="ltr">co</code>|</p>'),
        ("**a `co", '<p dir="auto"><strong>a <code dir="ltr">co</code></strong>|</p>'),
        ("x\n- ", '<p dir="auto">x|</p>'),
        ("see [the page](https://ex", '<p dir="auto">see the page|</p>'),
        ("# He", '<h3 dir="auto">He|</h3>'),
        ("5 * 3 *", '<p dir="auto">5 * 3 |</p>'),
        (b"\\\\[\\na+b".decode("unicode_escape"), '<code class="mv-formula" dir="ltr">\\[\na+b</code>|'),
    ],
)
def test_what_has_begun_is_shown_as_it_will_be(text: str, html: str) -> None:
    assert answer_html(text, unfinished=True, caret="|")[0] == html


def test_a_table_is_one_from_its_first_line_on() -> None:
    text = "Here:\n\n| a | b |\n|---|:-:|\n| 1 | 2 |"
    for end in range(text.index("| b") + 1, len(text) + 1):
        assert "<table>" in answer_html(text[:end], unfinished=True)[0], text[:end]
    assert with_table_rule("a | b |") == "a | b |"
    assert with_table_rule("|x| is") == "|x| is\n|-|-|"


def test_a_mark_that_nothing_closes_for_long_was_none() -> None:
    long = "word " * (MAX_OPEN // 5 + 1)
    assert open_ticks(f"it`s {long}") == ""
    assert open_ticks("``a`b") == "``"
    assert open_ticks("`a` and ``b`` `") == "`"
    assert "<strong>" not in answer_html(f"2 **{long}", unfinished=True)[0]
