"""Boxes and their markup: the reference's reading of well-formed text, and nothing lost of the rest."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.grounding import (
    Box,
    Phrase,
    Region,
    format_box,
    format_phrase,
    intersection_over_union,
    parse_boxes,
    parse_grounded_text,
    regions_of,
)
from tests.paths import DATA

RECORDED = json.loads((DATA / "text_and_schedule.json").read_text())

on_grid = st.integers(0, 100)
markup = st.text(alphabet="<>{}/pdelim 0123456789-ab\n", max_size=80)
pieces = st.lists(
    st.sampled_from(["<p>", "</p>", "{<1><2><3><4>}", "<delim>", "{", "}", "<9>", "a dog", " ", "{<-5><2><300><4>}"]),
    max_size=12,
).map("".join)


# Where we differ from the reference's overlay on purpose: text -> boxes in pixels of the reference's picture.
DEVIATIONS = {
    "<p>neg</p> {<-2><0><105><100>}": [(0, 0, 500, 312)],  # clipped to the image
    "2 cats and 3 dogs in 1 room of 7": [],  # the reference takes any four integers for a box
    "&lt;p&gt;x&lt;/p&gt; {&lt;1&gt;&lt;2&gt;&lt;3&gt;&lt;4&gt;}": [],  # its own page's entities
    "<p>a</p> no box <p>b</p> {<1><2><3><4>}": [(5, 10, 15, 20)],  # the reference loses b because a has no box
}


@pytest.mark.parametrize("case", RECORDED["overlay"], ids=lambda case: case["text"][:50])
def test_boxes_the_reference_draws(case: dict[str, Any]) -> None:
    width, height = case["size"] or (500, 500)
    drawn = [tuple(top_left + bottom_right) for top_left, bottom_right, *_ in case["rectangles"]]
    ours = [region.box.pixels(width, height) for region in regions_of(parse_grounded_text(case["text"]))]
    assert ours == DEVIATIONS.get(case["text"], drawn)


@pytest.mark.parametrize(
    "text", ["no box here", "in 2020, 3 of 10 people and 5", "<p>a</p>", "{<1><2><3>}", "{<1><2><3><4>"]
)
def test_text_that_is_not_markup_stays_text(text: str) -> None:
    assert parse_grounded_text(text) == [text]


def test_numbers_beyond_the_grid_are_clipped() -> None:
    assert parse_boxes("{<-5><2><1000><-9999>}") == [Box(0, 0, 1, 0.02)]
    assert parse_grounded_text("{<1><2><3><10000>}") == ["{<1><2><3><10000>}"]


def test_pixels_are_truncated() -> None:
    assert Box(0.19, 0.29, 0.99, 0.999).pixels(10, 100) == (1, 28, 9, 99)


def test_a_phrase_with_several_boxes() -> None:
    text = "I see <p>two sofas</p> {<1><2><30><40>}<delim>{<12><34><56><78>} and {<0><0><100><100>}."
    parts = parse_grounded_text(text)
    assert [part if isinstance(part, str) else part.text for part in parts] == ["I see ", "two sofas", " and ", "", "."]
    assert regions_of(parts)[0] == Region("two sofas", Box(0.01, 0.02, 0.3, 0.4))
    assert len(regions_of(parts)) == 3


@given(markup | pieces)
def test_nothing_is_lost_and_boxes_are_inside(text: str) -> None:
    parts = parse_grounded_text(text)
    assert "".join(part if isinstance(part, str) else part.markup for part in parts) == text
    for region in regions_of(parts):
        box = region.box
        assert 0 <= box.x0 <= box.x1 <= 1
        assert 0 <= box.y0 <= box.y1 <= 1


@given(on_grid, on_grid, on_grid, on_grid)
def test_a_box_on_the_grid_survives_text(a: int, b: int, c: int, d: int) -> None:
    box = Box.from_corners(a / 100, b / 100, c / 100, d / 100)
    assert parse_boxes(format_box(box)) == [box]
    phrase = parse_grounded_text(format_phrase("a dog", [box, box]))
    assert len(phrase) == 1
    assert isinstance(phrase[0], Phrase)
    assert phrase[0].boxes == (box, box)


def test_a_truncated_box_is_found_in_the_middle_of_its_cells() -> None:
    errors = []
    for step in range(1000):
        true = Box(step / 2000, 0.3, 0.5 + step / 2001, 0.9999)
        (read,) = parse_boxes(format_box(true))
        found = read.in_cell_middles()
        errors += [found.x0 - true.x0, found.x1 - true.x1]
        assert format_box(found) == format_box(true)  # it stays the same text
    assert abs(sum(errors)) / len(errors) < 0.0005  # as it is read, half a cell (0.005) is missing
    assert Box(0, 0, 1, 1).in_cell_middles() == Box(0.005, 0.005, 1, 1)


def test_intersection_over_union() -> None:
    a, b = Box(0, 0, 0.5, 0.5), Box(0.25, 0, 0.75, 0.5)
    assert intersection_over_union(a, a) == pytest.approx(1)
    assert intersection_over_union(a, b) == pytest.approx(1 / 3)
    assert intersection_over_union(a, Box(0.6, 0.6, 0.7, 0.7)) == 0
    assert intersection_over_union(Box(0, 0, 0, 0), Box(0, 0, 0, 0)) == 0
