"""Two answers' boxes, matched by where they are."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from app.chat.comparison import compare, match, overlap
from app.chat.exchange import Exchange, Pair
from models.conversation import Answer, Sampling
from models.grounding import Box

numbers = st.floats(0, 1)
boxes = st.builds(Box.from_corners, numbers, numbers, numbers, numbers)


def pair(left: str, right: str, *, finish: str | None = "stop") -> Pair:
    one, other = (Exchange("q", (), Sampling()) for _ in range(2))
    one.answer = Answer(text=left, finish_reason="stop")
    other.answer = Answer(text=right, finish_reason=finish)  # type: ignore[arg-type]
    return Pair(one, other)


def test_what_both_found_and_what_one_alone() -> None:
    found = compare(
        pair(
            "<p>circle</p> {<10><10><40><40>}<delim>{<60><60><90><90>} <p>bird</p> {<1><1><3><3>}",
            "<p>a round thing</p> {<11><10><41><40>} and {<50><0><60><9>}",  # other words, other numbers
        )
    )
    assert found is not None
    assert str(found) == "1 in both, 2 only left, 1 only right"
    assert [round(box.x0, 3) for box in found.only("right")] == [0.505]
    assert sorted(round(box.x0, 3) for box in found.only("left")) == [0.015, 0.605]


def test_nothing_is_said_before_both_have_ended_nor_without_boxes() -> None:
    assert compare(pair("{<1><1><3><3>}", "{<1><1>", finish=None)) is None
    found = compare(pair("no", "none"))
    assert found is not None
    assert found.is_empty


def test_each_box_is_matched_once_and_with_the_nearest() -> None:
    near, far = Box(0.1, 0.1, 0.5, 0.5), Box(0.15, 0.1, 0.55, 0.5)
    assert match([far, near], [near]) == [(1, 0)]
    assert match([near, near], [near]) == [(0, 0)]
    assert overlap(Box(0.2, 0.2, 0.2, 0.9), Box(0.2, 0.2, 0.2, 0.9)) == 1  # as thin as a line


@given(boxes, boxes)
def test_overlap_has_no_order_and_a_range(one: Box, other: Box) -> None:
    assert overlap(one, other) == overlap(other, one)
    assert 0 <= overlap(one, other) <= 1
    assert overlap(one, one) == 1


@given(st.lists(boxes, max_size=8), st.lists(boxes, max_size=8))
def test_matches_are_pairs_of_overlapping_boxes(left: list[Box], right: list[Box]) -> None:
    found = match(left, right)
    assert len({i for i, _ in found}) == len({j for _, j in found}) == len(found)
    assert all(overlap(left[i], right[j]) >= 0.5 for i, j in found)
