"""How answers are scored. Pure functions of answer text and expected sample.

Boxes are compared with the annotated ones, whose corners are cut to the answers' grid of 0…100 as in the released
training data: the format cannot say it more exactly. `overlap` can also take the object's true box; cutting alone costs
up to a fifth of the overlap of the smallest objects there.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from models.grounding import Box, Phrase, Region, intersection_over_union, parse_grounded_text, regions_of
from training.scenes.samples import Sample, box_of


@dataclass(frozen=True)
class Hits:
    """True positives, claimed and expected items; sums over answers with `+`."""

    right: int
    claimed: int
    expected: int

    def __add__(self, other: Hits) -> Hits:
        return Hits(self.right + other.right, self.claimed + other.claimed, self.expected + other.expected)

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall, 0…1."""
        return 2 * self.right / max(1, self.claimed + self.expected)


def overlap(answer: str, sample: Sample, *, unrounded: bool = False) -> float:
    """IoU of the single box of a `[refer]` answer with the annotated (or true) one; 0 for anything but one box."""
    regions = regions_of(parse_grounded_text(answer))
    truth = box_of(sample.items[0]) if unrounded else expected_regions(sample)[0].box
    return intersection_over_union(regions[0].box, truth) if len(regions) == 1 else 0.0


def region_hits(answer: str, sample: Sample, threshold: float = 0.5) -> Hits:
    """Regions whose phrase is right and whose box overlaps the annotated one; each counts once."""
    expected = expected_regions(sample)
    claimed = regions_of(parse_grounded_text(answer))
    candidates = sorted(
        (
            (intersection_over_union(claim.box, truth.box), i, j)
            for i, claim in enumerate(claimed)
            for j, truth in enumerate(expected)
            if claim.label == truth.label
        ),
        reverse=True,
    )
    used_claims: set[int] = set()
    used_truths: set[int] = set()
    for score, i, j in candidates:
        if score >= threshold and i not in used_claims and j not in used_truths:
            used_claims.add(i)
            used_truths.add(j)
    return Hits(len(used_truths), len(claimed), len(expected))


def expected_regions(sample: Sample) -> list[Region]:
    """What a perfect answer claims."""
    return regions_of(parse_grounded_text(sample.answer))


def caption_hits(answer: str, sample: Sample) -> Hits:
    """Objects and background of a caption as phrases without article, compared as multisets."""
    claimed, expected = Counter(_caption_parts(answer)), Counter(_caption_parts(sample.answer))
    return Hits((claimed & expected).total(), claimed.total(), expected.total())


def _caption_parts(caption: str) -> Sequence[str]:
    parts = re.split(r", | and | on ", caption.strip().rstrip("."))
    return [re.sub(r"^(an?|the) ", "", part.strip()) for part in parts if part.strip()]


def is_same_text(answer: str, sample: Sample) -> bool:
    """Equal up to case and surrounding space or full stop."""
    return answer.strip().rstrip(".").lower() == sample.answer.lower()


def claims_regions(answer: str) -> bool:
    """Whether an answer contains any box."""
    return bool(regions_of(parse_grounded_text(answer)))


def is_well_formed(answer: str) -> bool:
    """Whether all markup of an answer parses: nothing of it is left in the plain text, no box is inside out."""
    plain = ""
    for part in parse_grounded_text(answer):
        if isinstance(part, Phrase):
            if any(not is_upright(box) for box in part.boxes):
                return False
        else:
            plain += part
    return not re.search(r"[{}<>]", plain)


def is_upright(box: Box) -> bool:
    """Whether a box has an area."""
    return box.x0 < box.x1 and box.y0 < box.y1
