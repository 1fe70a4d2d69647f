"""Boxes: one type, one unit, and the only place where text markup is parsed and written.

MiniGPT-v2 and its kin write a box as `{<x0><y0><x1><y1>}`, integers on a grid of 0..100 relative to the image, origin
top left; a grounded phrase is `<p>phrase</p> {box}`, several boxes of one phrase are joined by `<delim>`
(arXiv:2310.09478, and `visualize_all_bbox_together` of the original demo). Anything else stays ordinary text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

BINS = 100  # the grid of the text markup
DELIMITER = "<delim>"

_BOX = r"\{\s*" + r"\s*".join([r"<\s*-?\d{1,4}\s*>"] * 4) + r"\s*\}"
_BOXES = rf"{_BOX}(?:\s*{DELIMITER}\s*{_BOX})*"
_MARKUP = re.compile(rf"<p>(?P<phrase>(?:(?!</?p>|<p>)[^{{}}])*)</p>\s*(?P<boxes>{_BOXES})|(?P<bare>{_BOXES})")
_ONE_BOX = re.compile(_BOX)
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

    def in_cell_middles(self, *, bins: int = BINS) -> Box:
        """A box from the text markup where it most likely is: a number v there stands for all of v/bins to (v+1)/bins,
        as training data truncates (`format_box`), so its corners belong in the middle of their cells."""
        half = 0.5 / bins
        return Box.from_corners(self.x0 + half, self.y0 + half, self.x1 + half, self.y1 + half)

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


# Kept: the boxes of an answer that is being written are asked for with every word.
_in_cell_middles = lru_cache(maxsize=8192)(Box.in_cell_middles)


@dataclass(frozen=True)
class Phrase:
    """A piece of an answer with its boxes; `text` is empty for bare boxes. `markup` is the original text."""

    text: str
    boxes: tuple[Box, ...]
    markup: str
    is_exact: bool = False  # not from the grid of the text markup, whose numbers stand for whole cells

    @property
    def regions(self) -> list[Region]:
        return [Region(self.text, box) for box in self.boxes]

    @property
    def places(self) -> tuple[Box, ...]:
        """The boxes where they most likely are, to be drawn and given to programs."""
        return self.boxes if self.is_exact else tuple(map(_in_cell_middles, self.boxes))


@dataclass(frozen=True)
class BoxSpan:
    """A piece of an answer that names boxes in another writing than ours: `text[begin:end]` means `label` at `boxes`.

    Without boxes it is markup that is not to be shown.
    """

    begin: int
    end: int
    label: str = ""
    boxes: tuple[Box, ...] = ()


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


def cut_at_spans(text: str, spans: Iterable[BoxSpan]) -> list[str | Phrase]:
    """As `parse_grounded_text`, of a text whose boxes are known. Spans that overlap earlier ones, or the end, go."""
    parts: list[str | Phrase] = []
    end = 0
    for span in spans:
        if not end <= span.begin < span.end <= len(text):
            continue
        if span.begin > end:
            parts.append(text[end : span.begin])
        parts.append(Phrase(span.label, span.boxes, text[span.begin : span.end], is_exact=True))
        end = span.end
    if end < len(text):
        parts.append(text[end:])
    return parts


def parse_boxes(text: str, *, bins: int = BINS) -> list[Box]:
    """Every well-formed `{<x0><y0><x1><y1>}` of a text, clipped to the image, corners put in order."""
    return [_parse_box(match[0], bins) for match in _ONE_BOX.finditer(text)]


@lru_cache(maxsize=8192)  # an answer that is being written is parsed again with every word, with all of its boxes
def _parse_box(text: str, bins: int) -> Box:
    x0, y0, x1, y1 = (int(number) / bins for number in _NUMBER.findall(text))
    return Box.from_corners(x0, y0, x1, y1)


def canonical_boxes(text: str, *, bins: int = BINS) -> str:
    """The text with every box as `parse_boxes` reads it: within the image, corners in order, without spaces."""
    return re.sub(_BOX, lambda match: _canonical_box(match[0], bins), text)


@lru_cache(maxsize=8192)  # a question may have a thousand boxes, most of them alike
def _canonical_box(text: str, bins: int) -> str:
    return format_box(parse_boxes(text, bins=bins)[0], bins=bins)


def replace_boxes(text: str, write: Callable[[Box], str], *, bins: int = BINS) -> str:
    """The text with every box as `write` writes it."""
    return re.sub(_BOX, lambda match: write(parse_boxes(match[0], bins=bins)[0]), text)


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


def intersection_over_union(a: Box, b: Box) -> float:
    """Overlap of two boxes, 0..1; 0 for two empty boxes."""
    width = max(0.0, min(a.x1, b.x1) - max(a.x0, b.x0))
    height = max(0.0, min(a.y1, b.y1) - max(a.y0, b.y0))
    union = _area(a) + _area(b) - width * height
    return width * height / union if union > 0 else 0.0


def _area(box: Box) -> float:
    return (box.x1 - box.x0) * (box.y1 - box.y0)
