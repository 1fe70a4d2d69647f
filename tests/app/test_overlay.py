"""Boxes over a picture: safe SVG, labels that stay inside and apart, colours that can be told apart."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.overlay import (
    LABEL_HEIGHT,
    PALETTE,
    Entity,
    describe,
    drawing_size,
    overlap,
    overlay_svg,
    place_labels,
    shorten,
)
from models.grounding import Box

edge = st.floats(0, 1)
boxes = st.builds(Box.from_corners, edge, edge, edge, edge)
sizes = st.tuples(st.integers(1, 5000), st.integers(1, 5000))
# XML has no way to write control characters and lone surrogates; the HTML parser of a browser does not mind them.
labels = st.text(st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="￾￿"), max_size=30)


@st.composite
def entity_lists(draw: st.DrawFn) -> list[Entity]:
    texts = draw(st.lists(labels, max_size=6))
    return [
        Entity(number, f"key {number}", text, tuple(draw(st.lists(boxes, min_size=1, max_size=3))))
        for number, text in enumerate(texts, start=1)
    ]


def entity(*found: Box, number: int = 1, label: str = "dog") -> Entity:
    return Entity(number, label, label, found)


@given(entity_lists(), sizes)
@settings(max_examples=60)
def test_svg_is_well_formed_with_one_group_per_entity(entities: list[Entity], size: tuple[int, int]) -> None:
    root = ElementTree.fromstring(overlay_svg(entities, size=size, picture='<use href="#x"/>'))
    for name, tag in (("mv-box", "rect"), ("mv-label", "text")):
        groups = [node for node in root if node.get("class") == name]
        assert [group.get("data-entity") for group in groups] == [str(entity.number) for entity in entities]
        for group, one in zip(groups, entities, strict=True):
            shapes = [node for node in group if node.tag.endswith(tag) and node.get("fill") != "none"]
            assert len(shapes) == len(one.boxes)
            assert {node.text for node in shapes} == {one.caption if tag == "text" else None}


@given(entity_lists(), sizes)
@settings(max_examples=60)
def test_labels_stay_inside_the_drawing(entities: list[Entity], size: tuple[int, int]) -> None:
    width, height = drawing_size(*size)
    for _, places in place_labels(entities, (width, height)):
        for left, top, right, bottom in places:
            assert left >= 0
            assert top >= 0
            assert bottom <= max(height, LABEL_HEIGHT)
            assert right <= width or left == 0  # a label wider than the picture begins at its edge


def test_labels_of_boxes_at_one_place_do_not_cover_each_other() -> None:
    box = Box(0.2, 0.4, 0.6, 0.7)
    entities = [entity(box, number=number, label=f"thing {number}") for number in range(1, 5)]
    places = [place for _, found in place_labels(entities, (1000, 1000)) for place in found]
    assert all(overlap(a, b) == 0 for i, a in enumerate(places) for b in places[:i])


def test_labels_are_escaped_and_short() -> None:
    svg = overlay_svg([entity(Box(0, 0, 1, 1), label="<script>'\"&" + "x" * 99)], size=(10, 10), picture="")
    assert "<script" not in svg
    assert len(shorten("x" * 99)) == 26


def luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a: str, b: str) -> float:
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("number", range(1, len(PALETTE) + 1))
def test_numbers_are_readable_on_their_colour(number: int) -> None:
    one = entity(number=number)
    assert contrast(one.colour, one.ink) >= 4.5


def test_description_for_people_who_do_not_see_it() -> None:
    assert describe([]) == "The image"
    box = Box(0, 0, 1, 1)
    text = describe([entity(box, box, label="dog"), entity(box, number=2, label="")])
    assert text == "The image with marked regions. 1: dog (2 boxes); 2: box"
