"""Questions and answers: true, unambiguous, and in well-formed markup."""

from __future__ import annotations

import numpy as np
import pytest

from models.grounding import intersection_over_union, parse_grounded_text, regions_of
from training.scenes.phrases import full_phrase, noun_phrase, plural, unique_phrases
from training.scenes.question_makers import MAKERS, VQA_MAKERS, clear_side, make_count, make_relation, vary
from training.scenes.samples import Sample, absent_phrase, box_of, without_identifier
from training.scenes.scene import Scene, sample_scene
from training.scenes.scoring import is_well_formed
from training.scenes.world import HELD_OUT

SCENES = [sample_scene(np.random.default_rng(seed)) for seed in range(30)]
BOX_TASKS = ("refer", "grounding", "detection")


def samples(task: str) -> list[tuple[Scene, Sample]]:
    rng = np.random.default_rng(3)
    made = [(scene, MAKERS[task](rng, scene)) for scene in SCENES]
    return [(scene, sample) for scene, sample in made if sample is not None]


@pytest.mark.parametrize("task", MAKERS)
def test_every_task_can_ask_about_some_scenes(task: str) -> None:
    assert len(samples(task)) >= 5


@pytest.mark.parametrize("task", MAKERS)
def test_markup_is_well_formed(task: str) -> None:
    for _, sample in samples(task):
        assert is_well_formed(sample.answer), sample.answer


@pytest.mark.parametrize("task", BOX_TASKS)
def test_boxes_in_the_answer_are_those_of_the_objects(task: str) -> None:
    for _, sample in samples(task):
        written = regions_of(parse_grounded_text(sample.answer))
        assert len(written) == len(sample.items)
        for region, item in zip(written, sample.items, strict=True):
            assert intersection_over_union(region.box, box_of(item)) > 0.7  # the rest is the grid of 0…100


def test_a_referring_phrase_fits_one_object_only() -> None:
    for scene in SCENES:
        for item in scene.objects:
            for phrase in unique_phrases(scene, item):
                attribute_sets = (("name",), ("colour", "name"), ("size", "name"), ("pattern", "name"))
                for attributes in attribute_sets:
                    if noun_phrase(item, attributes) == phrase:
                        assert sum(noun_phrase(other, attributes) == phrase for other in scene.objects) == 1


def test_absent_things_are_absent() -> None:
    rng = np.random.default_rng(4)
    for scene in SCENES:
        phrase = absent_phrase(rng, scene)
        for item in scene.objects:
            assert phrase not in (plural(item.name), f"{item.colour} {plural(item.name)}", f"{item.colour} objects")


@pytest.mark.parametrize("task", ["absent", "absent_one"])
def test_an_absent_thing_is_answered_without_a_box(task: str) -> None:
    assert not any(regions_of(parse_grounded_text(sample.answer)) for _, sample in samples(task))


def test_one_absent_thing_is_absent_but_like_something_there() -> None:
    near = []
    for scene, sample in samples("absent_one"):
        phrase = sample.answer.removeprefix("there is no ").removesuffix(" in the image")
        assert phrase in sample.prompt
        assert sample.mentions == ((phrase, ()),)
        assert phrase not in [noun_phrase(item, ("colour", "name")) for item in scene.objects]
        colour, name = phrase.split()[0], phrase.split()[-1]
        assert (name, colour) not in HELD_OUT
        near.append(any(item.colour == colour or item.name == name for item in scene.objects))
    assert sum(near) > 0.7 * len(near)


def test_counts_are_right() -> None:
    rng = np.random.default_rng(5)
    for scene in SCENES:
        sample = make_count(rng, scene)
        assert int(sample.answer) == len(sample.items)
        if "many objects" in sample.prompt:
            assert int(sample.answer) == len(scene.objects)


def test_relations_are_right() -> None:
    rng = np.random.default_rng(6)
    for scene in SCENES:
        sample = make_relation(rng, scene)
        if sample is None:
            continue
        a, b = sample.items
        side = clear_side(a, b)
        if sample.answer in ("yes", "no"):
            assert (f" {side}" in sample.prompt) == (sample.answer == "yes")
        else:
            assert sample.answer == side
        (ax, ay), (bx, by) = a.centre, b.centre
        assert {"left": ax < bx, "right": ax > bx, "above": ay < by, "below": ay > by}[str(side)]


@pytest.mark.parametrize("task", VQA_MAKERS)
def test_a_varied_question_keeps_its_answer_and_its_words(task: str) -> None:
    rng = np.random.default_rng(7)
    for _, sample in samples(task):
        varied = vary(rng, sample)
        assert varied.answer == sample.answer
        assert sample.prompt.rstrip("?.").lower() in varied.prompt.lower()


def test_a_description_names_every_object_and_the_background() -> None:
    for scene, sample in samples("caption"):
        assert all(full_phrase(item) in sample.answer for item in scene.objects)
        assert scene.background.colour in sample.answer


def test_prompts_lose_their_identifier_for_families_without_them() -> None:
    assert without_identifier(Sample("vqa", "[vqa] what color is the star?", "red")).prompt == "what color is the star?"
    assert without_identifier(Sample("caption", "describe this", "a star")).prompt == "describe this"


def test_boxes_are_fractions_of_the_image() -> None:
    box = box_of(SCENES[0].objects[0])
    assert 0 <= box.x0 < box.x1 <= 1
    assert 0 <= box.y0 < box.y1 <= 1
