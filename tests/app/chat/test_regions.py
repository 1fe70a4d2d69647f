"""Entities: what counts as the same thing, captions, colours that can be read, and JSON."""

from __future__ import annotations

import pytest

from app.chat.regions import (
    MAX_LABEL_CHARACTERS,
    MAX_PHRASE_CHARACTERS,
    PALETTE,
    Entity,
    entities_of,
    parse_answer,
    regions_data,
    shorten,
)
from models.grounding import Box, parse_grounded_text


def test_regions_as_json() -> None:
    entities = entities_of(parse_grounded_text("<p>día</p> {<10><20><30><40>}"))
    data = regions_data(entities, size=(200, 100))
    assert data == {
        "image": {"width": 200, "height": 100},
        "regions": [{"label": "día", "number": 1, "box": [0.105, 0.205, 0.305, 0.405], "pixels": [21, 20, 61, 40]}],
    }


def test_fractions_in_json_are_short() -> None:
    entity = Entity(1, "dog", "dog", (Box(1 / 3, 0, 2 / 3, 1),))
    (region,) = regions_data([entity], size=(300, 100))["regions"]
    assert (region["box"], region["pixels"]) == ([0.3333, 0, 0.6667, 1], [100, 0, 200, 100])


def test_colours_begin_with_the_first_and_repeat() -> None:
    colours = [Entity(number, "", "", ()).colour for number in range(1, len(PALETTE) + 2)]
    assert colours == [*PALETTE, PALETTE[0]]


def test_the_same_phrase_is_one_entity_and_its_equal_boxes_are_one() -> None:
    box, other = "{<0><0><50><50>}", "{<50><50><99><99>}"
    text = f"<p>a dog</p> {box} {other} <p>A  Dog</p> {box}<delim>{other} {other}"
    entities = entities_of(parse_grounded_text(text))
    assert [(entity.number, entity.label, len(entity.boxes)) for entity in entities] == [
        (1, "a dog", 2),
        (2, "", 1),
        (3, "", 1),
    ]


def test_boxes_without_a_phrase_show_what_was_asked_for() -> None:
    text = "{<0><0><50><50>} and <p>a dog</p> {<1><2><3><4>} or {<5><5><9><9>}"
    assert [(entity.label, len(entity.boxes)) for entity in entities_of(parse_answer(text, "the  red circle"))] == [
        ("the red circle", 2),
        ("a dog", 1),
    ]
    assert [entity.label for entity in entities_of(parse_answer(text))] == ["", "a dog", ""]
    (entity,) = entities_of(parse_answer("{<0><0><50><50>}", "long " * 1000))
    assert len(entity.label) == MAX_PHRASE_CHARACTERS
    assert entity.label.endswith("…")


def test_labels_are_short_and_on_one_line() -> None:
    whole = "x" * MAX_LABEL_CHARACTERS
    assert shorten(f" {whole}\n") == whole
    assert shorten(f"{whole}x") == f"{whole[:-1]}…"
    assert shorten("a \n b") == "a b"
    assert [Entity(3, "", label, ()).caption for label in ("dog", "")] == ["3 dog", "3"]


def luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a: str, b: str) -> float:
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("number", range(1, len(PALETTE) + 1))
def test_numbers_are_readable_on_their_colour(number: int) -> None:
    one = Entity(number, "dog", "dog", ())
    assert contrast(one.colour, one.ink) >= 4.5
