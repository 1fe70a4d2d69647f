"""Where the labels of boxes go over a picture that does not move, and how wide their texts are.

Each label is as large as there is room for: a plate with the phrase, one with its number, a dot.
assets/scripts/stage/labels.js does the same on the stage, where the places change with every zoom. What is near a place
is found through cells, so the work grows with the number of labels and not with its square.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import product

Rectangle = tuple[float, float, float, float]  # x0, y0, x1, y1 in drawing units

FONT_SIZE = 30
HEIGHT = 40
PADDING = 10
DOT = 9  # the radius of a label without room
CELL = 120
SMALL = 60  # a box of more than this many plates is hardly covered by one
MOST_COVERED = 0.06  # the part of a small box that a plate may cover

# Thousandths of the font size from " " to "~", as in Helvetica-Bold; fonts of a page differ from it by a few percent.
_WIDTHS = (
    *(278, 333, 474, 556, 556, 889, 722, 238, 333, 333, 389, 584, 278, 333, 278, 278),  # space to /
    *(556, 556, 556, 556, 556, 556, 556, 556, 556, 556, 333, 333, 584, 584, 584, 611),  # 0 to ?
    *(975, 722, 722, 722, 722, 667, 611, 778, 722, 278, 556, 722, 611, 833, 722, 778),  # @ to O
    *(667, 778, 722, 667, 611, 722, 667, 944, 667, 667, 611, 333, 278, 333, 584, 556),  # P to _
    *(333, 556, 611, 556, 611, 556, 333, 611, 611, 278, 278, 556, 278, 889, 611, 611),  # ` to o
    *(611, 611, 389, 556, 333, 611, 556, 778, 556, 556, 500, 389, 280, 389, 584),  # p to ~
)
_OTHER = 611


@dataclass(frozen=True)
class Label:
    """A label's place; `text` is empty for a dot."""

    text: str
    place: Rectangle


Labels = dict[tuple[Rectangle, tuple[str, ...]], Label]  # by box and texts


@dataclass
class _Cells:
    """Rectangles, found by place."""

    cells: dict[tuple[int, int], list[Rectangle]] = field(default_factory=dict)

    def add(self, rectangle: Rectangle) -> None:
        for cell in _cells_of(rectangle):
            self.cells.setdefault(cell, []).append(rectangle)

    def meeting(self, rectangle: Rectangle) -> Iterator[Rectangle]:
        """Those that share an area with this one; one may come more than once."""
        x0, y0, x1, y1 = rectangle
        for cell in _cells_of(rectangle):
            for other in self.cells.get(cell, ()):
                if other[0] < x1 and other[2] > x0 and other[1] < y1 and other[3] > y0:
                    yield other


def _cells_of(rectangle: Rectangle) -> Iterator[tuple[int, int]]:
    x0, y0, x1, y1 = rectangle
    return product(range(int(x0 // CELL), int(x1 // CELL) + 1), range(int(y0 // CELL), int(y1 // CELL) + 1))


@lru_cache(maxsize=2000)
def text_width(text: str) -> float:
    """How wide a text is at FONT_SIZE; overlay.py makes the browser keep to it."""
    return sum(_character_width(character) for character in text) * FONT_SIZE / 1000


def _character_width(character: str) -> int:
    if " " <= character <= "~":
        return _WIDTHS[ord(character) - ord(" ")]
    if unicodedata.combining(character):
        return 0
    return 1000 if unicodedata.east_asian_width(character) in "WF" else _OTHER


def plate_width(text: str) -> float:
    return text_width(text) + 2 * PADDING


def place_labels(
    boxes: Sequence[tuple[Rectangle, Sequence[str]]], size: tuple[int, int], known: Labels | None = None
) -> list[Label]:
    """A label for every box, in order: the longest of its texts that finds a free place around it, else a dot.

    A free place is inside the drawing, apart from earlier labels, and leaves small boxes to be seen. Labels that are
    `known` from a drawing with fewer boxes stay where they are; those that are new are added to it.
    """
    known = {} if known is None else known
    labels, small_boxes = _Cells(), _Cells()
    for box, texts in boxes:
        if area(box) < SMALL * plate_width(texts[0]) * HEIGHT:
            small_boxes.add(box)
        label = known.get((box, tuple(texts)))
        if label is not None and label.text:
            labels.add(label.place)
    placed = []
    for box, texts in boxes:
        name = (box, tuple(texts))
        label = known.get(name)
        if label is None:
            label = known[name] = _place(box, texts, size, labels, small_boxes)
            if label.text:
                labels.add(label.place)
        placed.append(label)
    return placed


def _place(box: Rectangle, texts: Sequence[str], size: tuple[int, int], labels: _Cells, small_boxes: _Cells) -> Label:
    for text in dict.fromkeys(texts):
        width = plate_width(text)
        if width > size[0] or size[1] < HEIGHT:
            continue
        for x, y in _spots(box, width):
            left = min(max(x, 0.0), size[0] - width)
            top = min(max(y, 0.0), float(size[1] - HEIGHT))
            plate = (left, top, left + width, top + HEIGHT)
            if any(True for _ in labels.meeting(plate)):
                continue
            if all(shared(plate, box) <= MOST_COVERED * max(area(box), 1) for box in small_boxes.meeting(plate)):
                return Label(text, plate)
    x, y = min(max(box[0], DOT), size[0] - DOT), min(max(box[1], DOT), size[1] - DOT)
    return Label("", (x - DOT, y - DOT, x + DOT, y + DOT))


def _spots(box: Rectangle, width: float) -> Iterator[tuple[float, float]]:
    """Around the box first, nearest to where one begins to read; then inside."""
    x0, y0, x1, y1 = box
    yield x0, y0 - HEIGHT
    yield x1 - width, y0 - HEIGHT
    yield x0, y1
    yield x1 - width, y1
    yield x1, y0
    yield x0 - width, y0
    yield x1, y1 - HEIGHT
    yield x0 - width, y1 - HEIGHT
    yield x0, y0
    yield x1 - width, y0
    yield x0, y1 - HEIGHT


def area(rectangle: Rectangle) -> float:
    return max(0.0, rectangle[2] - rectangle[0]) * max(0.0, rectangle[3] - rectangle[1])


def shared(a: Rectangle, b: Rectangle) -> float:
    """The area that two rectangles share."""
    return area((max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])))
