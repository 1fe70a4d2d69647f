"""Boxes over a picture: safe SVG, labels that stay inside and apart."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from html import escape

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.chat.regions import Entity, shorten
from app.page.boxes.overlay import MAX_DRAWN, describe, overlay_svg, scale_box, undrawn_note
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
    for name in ("mv-box", "mv-label"):
        groups = [node for node in root.iter() if node.get("class") == name]
        assert [group.get("data-entity") for group in groups] == [str(entity.number) for entity in entities]
        for group, one in zip(groups, entities, strict=True):
            shapes = [node for node in group if node.tag.endswith("rect") and node.get("fill") != "none"]
            assert len(shapes) == len(one.boxes)
            texts = {node.text for node in group if node.tag.endswith("text")}
            assert texts <= {one.caption, str(one.number)}


def test_of_very_many_boxes_the_first_are_drawn_and_it_says_so() -> None:
    few, many = entity(*[Box(0, 0, 0.5, 0.5)] * MAX_DRAWN), entity(*[Box(0.5, 0.5, 1, 1)] * 1100, number=2)
    assert undrawn_note([few]) == ""
    assert undrawn_note([few, many]) == "300 of 1,400 boxes are drawn."
    svg = overlay_svg([few, many], size=(1000, 1000), picture="")
    assert svg.count("mv-box-line") == MAX_DRAWN
    assert 'data-entity="2"' not in svg


def test_labels_are_escaped_and_short() -> None:
    name = "<script>'\"&" + "x" * 99
    svg = overlay_svg([entity(Box(0, 0, 1, 1), label=name)], size=(10, 10), picture="")
    assert "<script" not in svg
    assert f">1 {escape(shorten(name))}</text>" in svg


@pytest.mark.parametrize(
    ("box", "drawn"),
    [(Box(0.5, 0.2, 0.5, 0.6), (500, 100, 502, 300)), (Box(0, 1, 0.4, 1), (0, 500, 400, 502))],
)
def test_a_box_as_thin_as_a_line_can_be_seen(box: Box, drawn: tuple[float, ...]) -> None:
    assert scale_box(box, (1000, 500)) == drawn
    root = ElementTree.fromstring(overlay_svg([entity(box)], size=(1000, 500), picture=""))
    rectangles = [node for node in root.iter() if node.get("class") == "mv-box-line"]
    assert [(node.get("width"), node.get("height")) for node in rectangles] == [
        (f"{drawn[2] - drawn[0]:.1f}", f"{drawn[3] - drawn[1]:.1f}")
    ]


def test_description_for_people_who_do_not_see_it() -> None:
    assert describe([]) == "The image"
    box = Box(0, 0, 1, 1)
    text = describe([entity(box, box, label="dog"), entity(box, number=2, label="")])
    assert text == "The image with marked regions. 1: dog (2 boxes); 2: box"
