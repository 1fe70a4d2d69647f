"""Markdown of answers: what becomes of each kind, and that boxes work inside."""

from __future__ import annotations

import re

import pytest

from app.page.text.markdown import MAX_CELLS, MAX_CHARACTERS
from app.page.text.markup import answer_html
from tests.app.page.text.html_reader import Reader

PHRASE = "<p>dog</p> {<1><2><3><4>}"


@pytest.mark.parametrize(
    ("text", "tags"),
    [
        ("# a\n\n## b\n\n##### c", ["h3", "h4", "h6"]),
        ("- a\n- b\n  - c", ["ul", "li", "li", "ul", "li"]),
        ("3. a\n4. b", ["ol", "li", "li"]),
        ("- a\n\n- b", ["ul", "li", "p", "li", "p"]),
        ("> a", ["blockquote", "p"]),
        ("a\n\n---\n\nb", ["p", "hr", "p"]),
        ("**a** *b* __c__ _d_ ~~e~~ `f`", ["p", "strong", "em", "strong", "em", "s", "code"]),
        ("```py\nx\n```", ["div", "div", "span", "button", "pre", "code"]),
        ("|a|b|\n|-|-|\n|c|d|", ["div", "table", "thead", "tr", "th", "th", "tbody", "tr", "td", "td"]),
        ("a [b](https://c.d/e)", ["p", "a", "span"]),
        ("a <https://c.d/e>", ["p", "a"]),
        ("    four spaces\n\na\n===", []),
        ("**a**\nb", ["p", "strong"]),
    ],
)
def test_what_markdown_becomes(text: str, tags: list[str]) -> None:
    assert Reader(answer_html(text)[0]).tags == tags


@pytest.mark.parametrize(
    "frame",
    [
        "**{}**",
        "- {}\n- {}",
        "# {}",
        "|a|\n|-|\n|{}|",
        "`{}`",
        "```\n{}\n```",
        "> {}",
        "[a {}](https://e.org)",
        "[a](https://e.org/{}) **b**",
        "```{}\nx\n```",
        "$x^2 {}$ **b**",
        "**a** {}",
    ],
)
def test_boxes_work_inside(frame: str) -> None:
    html, entities = answer_html(frame.replace("{}", PHRASE))
    count = frame.count("{}")
    assert html.count('<button type="button" class="mv-phrase"') == count
    assert [(entity.label, len(entity.boxes)) for entity in entities] == [("dog", 1)]
    assert not re.search(r"<a [^>]*>[^<]*<button", html)  # a button in a link would be two things to press
    Reader(html).check_allowed()


def test_a_link_says_where_it_leads_and_tells_nobody_where_it_was() -> None:
    html = answer_html('[the page](https://e.org/?a="b"&c)')[0]
    assert (
        'href="https://e.org/?a=%22b%22&amp;c" target="_blank" rel="noopener noreferrer nofollow">the page</a>' in html
    )
    assert '<span class="mv-address">(https://e.org/?a=%22b%22&amp;c)</span>' in html
    assert "mv-address" not in answer_html("<https://e.org/>")[0]


def test_code_can_be_copied_as_the_model_wrote_it() -> None:
    html = answer_html(f"```py\nprint('<b>')  # {PHRASE}\n```")[0]
    reader = Reader(html)
    assert ("data-copy", f"print('<b>')  # {PHRASE}") in reader.attributes
    assert reader.text.endswith("print('<b>')  # dog")


def test_every_block_has_a_base_direction_of_its_own() -> None:
    html = answer_html("English\n\nالكلب\n\n- الكلب\n\n> x\n\n|a|\n|-|\n|الكلب|\n\n# x")[0]
    assert len(re.findall(r"<(?:p|ul|li|blockquote|th|td|h3) ", html)) == html.count('dir="auto"')
    assert not re.search(r"<(?:p|ul|li|blockquote|th|td|h3)>", html)


def test_what_would_be_huge_is_shown_as_text() -> None:
    wide = "|a" * 100 + "|\n" + "|-" * 100 + "|\n" + "|\n" * (MAX_CELLS // 100)
    assert "<table>" not in answer_html(wide)[0]
    assert "<table>" in answer_html("|a|\n|-|\n" + "|b|\n" * 500)[0]
    long = "**a** " * (MAX_CHARACTERS // 6 + 1)
    assert answer_html(long)[0] == long
    deep = "> " * 500 + "- " * 500 + "x"
    assert len(Reader(answer_html(deep)[0]).tags) < 100
