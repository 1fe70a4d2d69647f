"""Answers as HTML: everything escaped, phrases numbered, half-written markup held back."""

from __future__ import annotations

import json
from html.parser import HTMLParser

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from app.markup import answer_html, regions_json
from models.grounding import Phrase, parse_grounded_text

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
]
markup = st.lists(st.sampled_from(PIECES) | st.text(max_size=4), max_size=14).map("".join)


class Reader(HTMLParser):
    """Collects the text and the tags of a fragment."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text = ""
        self.tags: list[str] = []
        self.attributes: set[str] = set()
        self.hidden = 0
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag == "span":
            self.hidden += 1

    def handle_endtag(self, tag: str) -> None:
        if tag == "span":
            self.hidden -= 1

    def handle_data(self, data: str) -> None:
        if not self.hidden:
            self.text += data


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


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script>",
        "<img src=x onerror=alert(1)>",
        '<p>"><img src=x onerror=alert(1)></p> {<1><2><3><4>}',
        "<p>' onmouseover='alert(1)</p> {<1><2><3><4>}",
        "</button></div><iframe src=javascript:alert(1)>",
        "<svg onload=alert(1)>",
    ],
)
def test_nothing_gets_through(text: str) -> None:
    reader = Reader(answer_html(text)[0])
    assert set(reader.tags) <= {"button", "span"}
    assert not {name for name in reader.attributes if name.startswith("on")}


@given(markup)
@example("<p>{<1><2><3><4>}</p>{<1><2><3><4>}")
@example('<p>"</p>{<1><2><30><40>}<delim>')
def test_any_text_is_safe_and_complete(text: str) -> None:
    html, entities = answer_html(text)
    reader = Reader(html)
    assert set(reader.tags) <= {"button", "span"}
    assert reader.attributes <= {
        "type",
        "class",
        "data-entity",
        "aria-pressed",
        "aria-label",
        "aria-hidden",
        "title",
        "style",
    }
    parts = parse_grounded_text(text)
    expected = "".join(part.text if isinstance(part, Phrase) else part for part in parts)
    assert reader.text == expected
    assert [entity.number for entity in entities] == list(range(1, len(entities) + 1))


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


def test_regions_as_json() -> None:
    entities = answer_html("<p>día</p> {<10><20><30><40>}")[1]
    data = json.loads(regions_json(entities, size=(200, 100)))
    assert data == {
        "image": {"width": 200, "height": 100},
        "regions": [{"label": "día", "number": 1, "box": [0.1, 0.2, 0.3, 0.4], "pixels": [20, 20, 60, 40]}],
    }
