"""Boxes over a picture: numbered, coloured entities as inline SVG (the page's script makes the PNG to save from it).

An entity is everything an answer says about one phrase: the same phrase has one number and one colour, wherever it
occurs. All geometry is in units of 1/1000 of the picture's longer side, so one drawing fits every display size.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from models.grounding import Box, Phrase

# Okabe and Ito's palette for all kinds of colour vision, without black, and darkened where white paper swallows it.
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8f5fbf", "#b8a800")

UNITS = 1000
FONT_SIZE = 30
LABEL_HEIGHT = 40
LABEL_PADDING = 12
MAX_LABEL_CHARACTERS = 26

Rectangle = tuple[float, float, float, float]  # x0, y0, x1, y1 in drawing units


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
        red, green, blue = (int(self.colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
        return "#000000" if 0.2126 * red**2.2 + 0.7152 * green**2.2 + 0.0722 * blue**2.2 > 0.18 else "#ffffff"

    @property
    def caption(self) -> str:
        return f"{self.number} {shorten(self.label)}".rstrip()


def entities_of(parts: Iterable[str | Phrase]) -> list[Entity]:
    """The entities of a parsed answer, numbered by first appearance; see `entity_key` for what counts as the same."""
    boxes: dict[str, list[Box]] = {}
    labels: dict[str, str] = {}
    for index, part in enumerate(parts):
        if isinstance(part, Phrase):
            key = entity_key(part, index)
            labels.setdefault(key, part.text)
            found = boxes.setdefault(key, [])
            found += [box for box in part.boxes if box not in found]
    return [
        Entity(number, key, labels[key], tuple(found)) for number, (key, found) in enumerate(boxes.items(), start=1)
    ]


def entity_key(phrase: Phrase, index: int) -> str:
    """Equal for phrases that name the same thing; boxes without a phrase are a thing of their own."""
    return " ".join(phrase.text.casefold().split()) or f"#{index}"


def shorten(text: str, limit: int = MAX_LABEL_CHARACTERS) -> str:
    """Text on one line, cut to fit a label."""
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"


def drawing_size(width: int, height: int) -> tuple[int, int]:
    """Width and height of the drawing for a picture of this size: the longer side has UNITS."""
    scale = UNITS / max(width, height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def describe(entities: Sequence[Entity]) -> str:
    """The overlay in words, for people who do not see it."""
    if not entities:
        return "The image"
    items = []
    for entity in entities:
        count = len(entity.boxes)
        items.append(f"{entity.number}: {entity.label or 'box'}{f' ({count} boxes)' if count > 1 else ''}")
    return "The image with marked regions. " + "; ".join(items)


def overlay_svg(entities: Sequence[Entity], *, size: tuple[int, int], picture: str, description: str = "") -> str:
    """An `<svg>` with the picture and the boxes. `picture` is SVG markup that draws it over the whole drawing; `size`
    its width and height in pixels; `description` what it shows, by default what the boxes say.

    Every entity is two groups with its number in `data-entity`: its boxes, and above all boxes its labels.
    """
    width, height = drawing_size(*size)
    placed = place_labels(entities, (width, height))
    boxes = "".join(_group_svg("mv-box", entity, _boxes_svg(entity, (width, height))) for entity, _ in placed)
    labels = "".join(_group_svg("mv-label", entity, _labels_svg(entity, places)) for entity, places in placed)
    return (
        f'<svg class="mv-overlay" role="img" aria-label="{escape(description or describe(entities))}" '
        f'viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">{picture}{boxes}{labels}</svg>'
    )


def _group_svg(name: str, entity: Entity, shapes: str) -> str:
    return f'<g class="{name}" data-entity="{entity.number}">{shapes}</g>'


def _boxes_svg(entity: Entity, size: tuple[int, int]) -> str:
    shapes = []
    for box in entity.boxes:
        x0, y0, x1, y1 = scale_box(box, size)
        rect = f'x="{x0:.1f}" y="{y0:.1f}" width="{x1 - x0:.1f}" height="{y1 - y0:.1f}" rx="4"'
        # The pale halo keeps the box visible on a background of its own colour.
        shapes.append(
            f'<rect {rect} fill="none" stroke="#ffffff" stroke-opacity="0.75" stroke-width="10"/>'
            f'<rect class="mv-box-line" {rect} fill="{entity.colour}" fill-opacity="0.08" '
            f'stroke="{entity.colour}" stroke-width="5"/>'
        )
    return "".join(shapes)


def _labels_svg(entity: Entity, places: Sequence[Rectangle]) -> str:
    return "".join(
        f'<rect x="{left:.1f}" y="{top:.1f}" width="{right - left:.1f}" height="{LABEL_HEIGHT}" '
        f'rx="8" fill="{entity.colour}" stroke="#ffffff" stroke-opacity="0.75" stroke-width="2"/>'
        f'<text x="{left + LABEL_PADDING:.1f}" y="{top + LABEL_HEIGHT * 0.73:.1f}" fill="{entity.ink}" '
        f'font-size="{FONT_SIZE}" font-weight="600" font-family="system-ui, sans-serif">{escape(entity.caption)}</text>'
        for left, top, right, _ in places
    )


def scale_box(box: Box, size: tuple[int, int]) -> Rectangle:
    """A box in drawing units; never so thin that it cannot be seen."""
    width, height = size
    x0, y0, x1, y1 = box.x0 * width, box.y0 * height, box.x1 * width, box.y1 * height
    return x0, y0, max(x1, x0 + 2), max(y1, y0 + 2)


def place_labels(entities: Sequence[Entity], size: tuple[int, int]) -> list[tuple[Entity, list[Rectangle]]]:
    """One label per box: the first free place around it, or the one that covers the least of earlier labels."""
    placed: list[Rectangle] = []
    result = []
    for entity in entities:
        labels = []
        for box in entity.boxes:
            candidates = _label_places(scale_box(box, size), label_width(entity.caption), size)
            best = min(candidates, key=lambda place: sum(overlap(place, other) for other in placed))
            placed.append(best)
            labels.append(best)
        result.append((entity, labels))
    return result


def label_width(caption: str) -> float:
    """An estimate, generous for narrow letters: the browser's font is not known here."""
    wide = sum(ord(character) > 0x2E80 for character in caption)
    return (len(caption) * 0.62 + wide * 0.4) * FONT_SIZE + 2 * LABEL_PADDING


def _label_places(box: Rectangle, width: float, size: tuple[int, int]) -> list[Rectangle]:
    x0, y0, x1, y1 = box
    spots = [
        (x0, y0 - LABEL_HEIGHT),
        (x0, y0),
        (x0, y1),
        (x1 - width, y0 - LABEL_HEIGHT),
        (x1 - width, y1),
        (x0, y1 - LABEL_HEIGHT),
        (x1, y0),
        (x0 - width, y0),
        (x1 - width, y0),
    ]
    inside = []
    for x, y in spots:
        left = min(max(x, 0.0), max(size[0] - width, 0.0))
        top = min(max(y, 0.0), max(size[1] - LABEL_HEIGHT, 0.0))
        inside.append((left, top, left + width, top + LABEL_HEIGHT))
    return inside


def overlap(a: Rectangle, b: Rectangle) -> float:
    """The area that two rectangles share."""
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
