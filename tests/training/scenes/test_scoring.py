"""Scores of hand-made answers."""

from __future__ import annotations

import pytest

from training.evaluation.scene_accuracy import ask_scenes, measure, score
from training.scenes import scoring as metrics
from training.scenes.samples import Sample
from training.scenes.scene import SceneObject

CIRCLE = SceneObject(
    kind="shape", name="circle", colour="red", size="medium", pattern="solid", pixels=30, angle=0, rgb=(220, 38, 38),
    left=10, top=10,
)  # fmt: skip
STAR = SceneObject(
    kind="shape", name="star", colour="blue", size="medium", pattern="solid", pixels=30, angle=0, rgb=(40, 80, 225),
    left=80, top=80,
)  # fmt: skip


def box_text(item: SceneObject) -> str:
    return "{" + "".join(f"<{int(value / 144 * 100)}>" for value in item.box) + "}"


REFER = Sample("refer", "[refer] the red circle", box_text(CIRCLE), (CIRCLE,))
GROUNDING = Sample(
    "grounding",
    "[grounding] describe this image in detail",
    f"<p>a red circle</p> {box_text(CIRCLE)} and <p>a blue star</p> {box_text(STAR)} on a plain gray background",
    (CIRCLE, STAR),
)
CAPTION = Sample("caption", "[caption]", "a red circle, a red circle and a blue star on a plain gray background")


def test_the_right_box_overlaps_and_anything_else_does_not() -> None:
    assert metrics.overlap(REFER.answer, REFER) == 1
    assert 0.75 < metrics.overlap(REFER.answer, REFER, unrounded=True) < 1
    assert metrics.overlap(box_text(STAR), REFER) == 0
    assert metrics.overlap("somewhere", REFER) == 0
    assert metrics.overlap(box_text(CIRCLE) + box_text(CIRCLE), REFER) == 0


def test_regions_need_phrase_and_place() -> None:
    assert metrics.region_hits(GROUNDING.answer, GROUNDING) == metrics.Hits(2, 2, 2)
    swapped = GROUNDING.answer.replace("red circle", "red heart")
    assert metrics.region_hits(swapped, GROUNDING) == metrics.Hits(1, 2, 2)
    doubled = f"<p>a red circle</p> {box_text(CIRCLE)}<delim>{box_text(CIRCLE)}"
    assert metrics.region_hits(doubled, GROUNDING) == metrics.Hits(1, 2, 2)


def test_captions_are_compared_as_multisets() -> None:
    assert metrics.caption_hits(CAPTION.answer, CAPTION).f1 == 1
    one_less = "a red circle and a blue star on a plain gray background"
    assert metrics.caption_hits(one_less, CAPTION) == metrics.Hits(3, 3, 4)
    assert metrics.caption_hits("", CAPTION).f1 == 0


def test_short_answers_ignore_case_and_full_stop() -> None:
    sample = Sample("colour", "what color is the star?", "blue")
    assert metrics.is_same_text(" Blue.", sample)
    assert not metrics.is_same_text("light blue", sample)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("a plain sentence", True),
        ("{<1><2><30><40>}", True),
        ("<p>a star</p> {<1><2><30><40>}<delim>{<5><6><70><80>} and more", True),
        ("{<1><2><30>}", False),
        ("<p>a star {<1><2><30><40>}", False),
        ("{<1><2><1><40>}", False),
    ],
)
def test_well_formed_markup(answer: str, expected: bool) -> None:
    assert metrics.is_well_formed(answer) is expected


def test_scores_of_a_task() -> None:
    assert set(score("refer", [REFER, REFER], [REFER.answer, "no idea"]).values()) == {0.5}
    assert score("absent", [REFER, REFER], ["there are none", REFER.answer]) == {"absent_unclaimed": 0.5}
    assert score("absent_one", [REFER, REFER], ["there is none", REFER.answer]) == {"absent_one_unclaimed": 0.5}
    assert score("grounding", [GROUNDING], [GROUNDING.answer]) == {"grounding_f1@0.5": 1.0}


def test_evaluation_scenes_depend_on_the_seed_only() -> None:
    first, again, other = (ask_scenes("refer", 5, seed, boxes=True) for seed in (1, 1, 2))
    assert first == again != other


def test_held_out_questions_are_about_held_out_pairs() -> None:
    for _, sample in ask_scenes("identify", 5, 1, boxes=True, held_out="always"):
        assert sample.items[0].is_held_out


@pytest.mark.parametrize("boxes", [True, False])
def test_perfect_answers_get_full_marks(boxes: bool) -> None:
    figures = measure(lambda asked: [sample.answer for _, sample in asked], boxes=boxes, scenes=3, seed=1)
    gap = figures.pop("held_out_gap")
    assert gap == 0
    figures = {name: value for name, value in figures.items() if not name.endswith("_unrounded")}
    assert set(figures.values()) == {1.0}
