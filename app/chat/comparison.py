"""What two answers to one question found alike: their boxes, matched by where they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from app.chat.exchange import Pair
from app.chat.regions import Entity, entities_of, parse_answer
from models.grounding import Box, intersection_over_union

SAME = 0.5  # intersection over union from which on two boxes are one place
MOST = 300  # boxes of an answer that are compared; no more are drawn


@dataclass(frozen=True)
class Comparison:
    """How many boxes both answers have, how many only the left or the right one; and which ones nothing matches."""

    both: int
    only_left: frozenset[Box]
    only_right: frozenset[Box]

    @property
    def is_empty(self) -> bool:
        """Whether neither answer has a box."""
        return not (self.both or self.only_left or self.only_right)

    def only(self, side: str) -> frozenset[Box]:
        """The boxes of that answer which the other one lacks."""
        return self.only_left if side == "left" else self.only_right

    def __str__(self) -> str:
        """In words, for people."""
        return f"{self.both} in both, {len(self.only_left)} only left, {len(self.only_right)} only right"


def compare(pair: Pair) -> Comparison | None:
    """None while one of the answers is still being written. Labels do not matter: models have their own words."""
    if any(one.is_running for one in (pair.left, pair.right)):
        return None
    found = [entities_of(parse_answer(one.text, one.phrase, one.spans)) for one in (pair.left, pair.right)]
    left, right = (_boxes(entities) for entities in found)
    matched = match(left, right)
    only_left = frozenset(left) - {left[i] for i, _ in matched}
    only_right = frozenset(right) - {right[j] for _, j in matched}
    return Comparison(len(matched), only_left, only_right)


def match(left: Sequence[Box], right: Sequence[Box]) -> list[tuple[int, int]]:
    """Pairs of places in the two lists whose boxes overlap by SAME or more, the best first; each box at most once."""
    overlaps = [
        (share, i, j)
        for i, one in enumerate(left)
        for j, other in enumerate(right)
        if (share := overlap(one, other)) >= SAME
    ]
    overlaps.sort(key=lambda found: (-found[0], found[1:]))
    taken: tuple[set[int], set[int]] = (set(), set())
    matched = []
    for _, i, j in overlaps:
        if i not in taken[0] and j not in taken[1]:
            taken[0].add(i)
            taken[1].add(j)
            matched.append((i, j))
    return matched


def overlap(one: Box, other: Box) -> float:
    """Intersection over union, from 0 to 1; 1 for equal boxes, however thin."""
    return 1.0 if one == other else intersection_over_union(one, other)


def _boxes(entities: Sequence[Entity]) -> list[Box]:
    """Each place once, whatever it is called."""
    return list(dict.fromkeys(box for entity in entities for box in entity.boxes))[:MOST]
