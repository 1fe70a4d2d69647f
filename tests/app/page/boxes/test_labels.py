"""Labels: inside the picture, apart from each other, off small boxes, and smaller where it is crowded."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from app.page.boxes.labels import (
    DOT,
    HEIGHT,
    PADDING,
    Label,
    Labels,
    Rectangle,
    area,
    place_labels,
    plate_width,
    shared,
    text_width,
)

SIZE = (1000, 1000)
corner = st.floats(0, 900)
rectangles = st.builds(lambda x, y, w, h: (x, y, x + w, y + h), corner, corner, st.floats(2, 300), st.floats(2, 300))


def labelled(*boxes: Rectangle) -> list[tuple[Rectangle, tuple[str, str]]]:
    return [(box, (f"{number} thing", str(number))) for number, box in enumerate(boxes, start=1)]


def scattered(count: int, side: float) -> list[Rectangle]:
    draw = random.Random(0)
    corners = [(draw.uniform(0, 1000 - side), draw.uniform(0, 1000 - side)) for _ in range(count)]
    return [(x, y, x + side, y + side) for x, y in corners]


@given(st.lists(rectangles, max_size=30), st.tuples(st.integers(1, 1000), st.integers(1, 1000)))
@settings(max_examples=60)
def test_labels_stay_inside_and_apart(boxes: list[Rectangle], size: tuple[int, int]) -> None:
    plates = [label.place for label in place_labels(labelled(*boxes), size) if label.text]
    for left, top, right, bottom in plates:
        assert 0 <= left < right <= size[0] + 1e-6
        assert 0 <= top < bottom <= size[1]
    assert all(shared(a, b) < 1e-6 for i, a in enumerate(plates) for b in plates[:i])


def test_a_label_hides_little_of_a_small_box() -> None:
    boxes = scattered(40, 90)
    for label in place_labels(labelled(*boxes), SIZE):
        if label.text:
            assert all(shared(label.place, box) <= 0.061 * area(box) for box in boxes)


def test_a_label_alone_lies_on_the_edge_of_its_box() -> None:
    (label,) = place_labels([((200, 400, 600, 700), ("1 dog", "1"))], SIZE)
    assert label == Label("1 dog", (200, 360, 200 + plate_width("1 dog"), 400))


def test_labels_shrink_to_numbers_and_then_to_dots() -> None:
    def longest(count: int) -> list[int]:
        labels = place_labels(labelled(*scattered(count, 60)), SIZE)
        return [sum(len(label.text.split()) == words for label in labels) for words in (2, 1, 0)]

    plates, numbers, dots = longest(8)
    assert (plates, numbers + dots) == (8, 0)
    plates, numbers, dots = longest(300)
    assert plates < numbers + dots
    assert numbers > 0
    assert dots > 0


def test_labels_stay_where_they_are_while_boxes_are_added() -> None:
    boxes = labelled(*scattered(120, 60))
    known: Labels = {}
    first = place_labels(boxes[:60], SIZE, known)
    together = place_labels(boxes, SIZE, known)
    assert together[:60] == first
    plates = [label.place for label in together if label.text]
    assert all(shared(a, b) == 0 for index, a in enumerate(plates) for b in plates[:index])


def test_a_dot_is_at_the_corner_of_its_box() -> None:
    box = (300.0, 300.0, 320.0, 320.0)
    dots = [label for label in place_labels(labelled(*[box] * 80), SIZE) if not label.text]
    assert dots
    assert {label.place for label in dots} == {(300 - DOT, 300 - DOT, 300 + DOT, 300 + DOT)}


def test_the_width_of_a_text_depends_on_its_letters() -> None:
    assert text_width("iiii") < text_width("oooo") < text_width("WWWW") < text_width("犬犬犬犬")
    assert text_width("e\u0301") == text_width("e")
    assert plate_width("dog") == text_width("dog") + 2 * PADDING
    assert HEIGHT > 30
