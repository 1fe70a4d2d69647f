"""Boxes: one type, one unit, and the only place where text markup is parsed and written.

MiniGPT-v2 and its kin write a box as `{<x0><y0><x1><y1>}`, integers on a grid of 0..100 relative to the image, origin
top left; a grounded phrase is `<p>phrase</p> {box}`, several boxes of one phrase are joined by `<delim>`
(arXiv:2310.09478, and `visualize_all_bbox_together` of the original demo). Anything else stays ordinary text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

BINS = 100  # the grid of the text markup
DELIMITER = "<delim>"

_BOX = r"\{\s*" + r"\s*".join([r"<\s*-?\d{1,4}\s*>"] * 4) + r"\s*\}"
_BOXES = rf"{_BOX}(?:\s*{DELIMITER}\s*{_BOX})*"
_MARKUP = re.compile(rf"<p>(?P<phrase>(?:(?!</?p>|<p>)[^{{}}])*)</p>\s*(?P<boxes>{_BOXES})|(?P<bare>{_BOXES})")
_NUMBER = re.compile(r"-?\d+")


@dataclass(frozen=True)
class Box:
    """A rectangle in fractions of the image: 0 <= x0 <= x1 <= 1 and 0 <= y0 <= y1 <= 1, origin top left."""

    x0: float
    y0: float
    x1: float
    y1: float

    @classmethod
    def from_corners(cls, x0: float, y0: float, x1: float, y1: float) -> Box:
        """Two opposite corners in any order, clipped to the image."""
        x0, y0, x1, y1 = (min(max(value, 0.0), 1.0) for value in (x0, y0, x1, y1))
        return cls(min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1))

    def pixels(self, width: int, height: int) -> tuple[int, int, int, int]:
        """x0, y0, x1, y1 in pixels of an image of this size, truncated as the original overlay does."""
        return (
            int(self.x0 * width),
            int(self.y0 * height),
            int(self.x1 * width),
            int(self.y1 * height),
        )


@dataclass(frozen=True)
class Region:
    """A box with what it shows; `label` may be empty (an answer to `[refer]` is a bare box)."""

    label: str
    box: Box


@dataclass(frozen=True)
class Phrase:
    """A piece of an answer with its boxes; `text` is empty for bare boxes. `markup` is the original text."""

    text: str
    boxes: tuple[Box, ...]
    markup: str

    @property
    def regions(self) -> list[Region]:
        return [Region(self.text, box) for box in self.boxes]


def parse_grounded_text(text: str, *, bins: int = BINS) -> list[str | Phrase]:
    """Cut an answer into plain text and phrases with boxes, in order; never raises, loses no character.

    Joining the strings and each phrase's `markup` gives `text` back. A `<p>phrase</p>` without a box stays text.
    """
    parts: list[str | Phrase] = []
    end = 0
    for match in _MARKUP.finditer(text):
        if match.start() > end:
            parts.append(text[end : match.start()])
        boxes = parse_boxes(match["boxes"] or match["bare"], bins=bins)
        parts.append(Phrase((match["phrase"] or "").strip(), tuple(boxes), match[0]))
        end = match.end()
    if end < len(text):
        parts.append(text[end:])
    return parts


def parse_boxes(text: str, *, bins: int = BINS) -> list[Box]:
    """Every well-formed `{<x0><y0><x1><y1>}` of a text, clipped to the image, corners put in order."""
    boxes = []
    for match in re.finditer(_BOX, text):
        x0, y0, x1, y1 = (int(number) / bins for number in _NUMBER.findall(match[0]))
        boxes.append(Box.from_corners(x0, y0, x1, y1))
    return boxes


def regions_of(parts: Iterable[str | Phrase]) -> list[Region]:
    """All regions of a parsed answer, in order."""
    return [region for part in parts if isinstance(part, Phrase) for region in part.regions]


def format_box(box: Box, *, bins: int = BINS) -> str:
    """`{<x0><y0><x1><y1>}` with every coordinate truncated towards zero, as the training data has it."""
    # The tiny epsilon keeps 0.29 * 100 = 28.999999999999996 at 29: boxes that came from the grid must go back to it.
    return "{" + "".join(f"<{int(value * bins + 1e-9)}>" for value in (box.x0, box.y0, box.x1, box.y1)) + "}"


def format_phrase(phrase: str, boxes: Sequence[Box], *, bins: int = BINS) -> str:
    """`<p>phrase</p> {box}<delim>{box}`."""
    return f"<p>{phrase}</p> " + DELIMITER.join(format_box(box, bins=bins) for box in boxes)


def box_from_xywh(x: float, y: float, width: float, height: float, *, image_size: tuple[float, float]) -> Box:
    """A COCO annotation `[x, y, width, height]` in pixels of an image of `image_size` (width, height)."""
    image_width, image_height = image_size
    return Box.from_corners(x / image_width, y / image_height, (x + width) / image_width, (y + height) / image_height)


def intersection_over_union(a: Box, b: Box) -> float:
    """Overlap of two boxes, 0..1; 0 for two empty boxes."""
    width = max(0.0, min(a.x1, b.x1) - max(a.x0, b.x0))
    height = max(0.0, min(a.y1, b.y1) - max(a.y0, b.y0))
    union = _area(a) + _area(b) - width * height
    return width * height / union if union > 0 else 0.0


def _area(box: Box) -> float:
    return (box.x1 - box.x0) * (box.y1 - box.y0)
