"""What the boxes of an answer belong to: numbered, coloured entities, and the same as JSON.

An entity is everything an answer says about one phrase: the same phrase has one number and one colour, wherever it
occurs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from models.grounding import Box, BoxSpan, Phrase, cut_at_spans, parse_grounded_text

# Okabe and Ito's palette for all kinds of colour vision, without black, and darkened where white paper swallows it.
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8f5fbf", "#b8a800")

MAX_LABEL_CHARACTERS = 26
MAX_PHRASE_CHARACTERS = 200  # of a question that gives its phrase to boxes


@dataclass(frozen=True)
class Entity:
    """A phrase with all its boxes; `label` is empty for boxes without a phrase. `number` counts from 1."""

    number: int
    key: str
    label: str
    boxes: tuple[Box, ...]

    @property
    def colour(self) -> str:
        return PALETTE[(self.number - 1) % len(PALETTE)]

    @property
    def ink(self) -> str:
        """The text colour that reads best on `colour`."""
        return _ink_on(self.colour)

    @property
    def caption(self) -> str:
        return f"{self.number} {shorten(self.label)}".rstrip()


@lru_cache
def _ink_on(colour: str) -> str:
    red, green, blue = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return "#000000" if 0.2126 * red**2.2 + 0.7152 * green**2.2 + 0.0722 * blue**2.2 > 0.18 else "#ffffff"


def parse_answer(text: str, phrase: str = "", spans: Sequence[BoxSpan] | None = None) -> list[str | Phrase]:
    """As `parse_grounded_text`; boxes without a phrase of their own get the one that the question asked for, if any.

    `spans` say where the boxes are in a text that is not written so (`Answer.spans`).
    """
    parts = parse_grounded_text(text) if spans is None else cut_at_spans(text, spans)
    name = shorten(phrase, MAX_PHRASE_CHARACTERS)
    return [
        replace(part, text=part.text or name) if isinstance(part, Phrase) and part.boxes else part for part in parts
    ]


def entities_of(parts: Iterable[str | Phrase], *, before: Sequence[Entity] = (), first: int = 0) -> list[Entity]:
    """The entities of a parsed answer, numbered by first appearance; see `entity_key` for what counts as the same.

    Their boxes are where they are drawn: `Phrase.places`. `before`: the entities of the parts before these, which were
    `first` many.
    """
    entities = {entity.key: entity for entity in before}
    boxes: dict[str, dict[Box, None]] = {}
    labels: dict[str, str] = {}
    for index, part in enumerate(parts, start=first):
        if isinstance(part, Phrase) and part.boxes:
            key = entity_key(part, index)
            if key not in boxes:
                boxes[key] = dict.fromkeys(entities[key].boxes) if key in entities else {}
                labels[key] = part.text
            boxes[key].update((box, None) for box in part.places)
    for key, found in boxes.items():
        known = entities.get(key)
        number, label = (known.number, known.label) if known else (len(entities) + 1, labels[key])
        entities[key] = Entity(number, key, label, tuple(found))
    return list(entities.values())


def entity_key(phrase: Phrase, index: int) -> str:
    """Equal for phrases that name the same thing; boxes without a phrase are a thing of their own."""
    return " ".join(phrase.text.casefold().split()) or f"#{index}"


def shorten(text: str, limit: int = MAX_LABEL_CHARACTERS) -> str:
    """Text on one line, cut to fit a label."""
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"


def regions_data(entities: Sequence[Entity], *, size: tuple[int, int]) -> dict[str, Any]:
    """Every region, for JSON: fractions of the image and pixels of the uploaded file, which is of this size."""
    width, height = size
    regions = [
        {
            "label": entity.label,
            "number": entity.number,
            "box": [round(value, 4) for value in (box.x0, box.y0, box.x1, box.y1)],
            "pixels": list(box.pixels(width, height)),
        }
        for entity in entities
        for box in entity.boxes
    ]
    return {"image": {"width": width, "height": height}, "regions": regions}
