"""Scenes with more text and overlap, and what is asked about covered objects."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from training.scenes.hard_scenes import USUAL, SceneBlend, covered_shares, num_aligned, with_alike_pair
from training.scenes.samples import Maker, make_identify, make_identify_covered
from training.scenes.scene import Scene, sample_scene, sample_text_scene
from training.scenes.world import COLOURS, MAX_OBJECTS


def scene_of_squares(*corners: tuple[int, int]) -> Scene:
    """Upright squares of equal size at these positions of their masks."""
    scene = sample_scene(np.random.default_rng(0))
    square = replace(scene.objects[0], kind="shape", name="square", pixels=40, angle=0, pattern="solid")
    return replace(scene, objects=tuple(replace(square, left=left, top=top) for left, top in corners))


def test_covered_shares_are_parts_of_boxes() -> None:
    scene = scene_of_squares((0, 0), (20, 0), (100, 100))
    x0, _, x1, _ = scene.objects[0].box
    expected = (x1 - x0 - 20) / (x1 - x0)
    np.testing.assert_allclose(covered_shares(scene), [expected, expected, 0])


@pytest.mark.parametrize(("gap", "share"), [(2, 0.1), (8, 0.0)])
def test_near_boxes_count_as_touching(gap: int, share: float) -> None:
    x0, _, x1, _ = scene_of_squares((0, 0)).objects[0].box
    scene = scene_of_squares((0, 0), (int(x1 - x0) + gap, 0))
    np.testing.assert_allclose(covered_shares(scene), [share, share])


def test_a_lone_object_is_not_covered() -> None:
    assert covered_shares(scene_of_squares((50, 50))).tolist() == [0.0]


@pytest.mark.parametrize(("starts", "pairs"), [((10, 11, 60), 1), ((10, 13, 14), 2), ((10, 14, 60), 0), ((10,), 0)])
def test_objects_in_a_column_are_counted_in_pairs(starts: tuple[int, ...], pairs: int) -> None:
    assert num_aligned(scene_of_squares(*((start, 30 * n) for n, start in enumerate(starts)))) == pairs


def test_text_scenes_are_mostly_text_and_hold_nothing_held_out() -> None:
    rng = np.random.default_rng(1)
    scenes = [sample_text_scene(rng) for _ in range(100)]
    objects = [item for scene in scenes for item in scene.objects]
    assert sum(item.kind != "shape" for item in objects) > 0.6 * len(objects)
    assert max(len(scene.objects) for scene in scenes) <= MAX_OBJECTS
    assert not any(item.is_held_out for item in objects)


def test_one_of_two_that_overlap_gets_the_colour_of_the_other_in_a_shade_of_its_own() -> None:
    scene = scene_of_squares((0, 0), (20, 0), (100, 100))
    objects = []
    for item, colour, shade in zip(scene.objects, ("blue", "green", "orange"), (-2, 3, 1), strict=True):
        red, green, blue = COLOURS[colour]
        objects.append(replace(item, colour=colour, rgb=(red + shade, green, blue)))
    first, second, apart = with_alike_pair(replace(scene, objects=tuple(objects)), np.random.default_rng(0)).objects
    assert apart == objects[2]
    assert first.colour == second.colour
    for before, after in ((objects[0], first), (objects[1], second)):
        own_shade = np.subtract(before.rgb, COLOURS[before.colour])
        np.testing.assert_array_equal(np.subtract(after.rgb, COLOURS[after.colour]), own_shade)
        assert replace(after, colour=before.colour, rgb=before.rgb) == before


def test_alike_pairs_are_never_held_out_ones() -> None:
    rng = np.random.default_rng(4)
    blend = SceneBlend(entangled=1.0, alike=1.0)
    scenes = [blend.sample(rng) for _ in range(300)]
    assert not any(item.is_held_out for scene in scenes for item in scene.objects)


def test_nothing_is_made_alike_that_lies_apart() -> None:
    scene = scene_of_squares((0, 0), (100, 100))
    assert with_alike_pair(scene, np.random.default_rng(0)) is scene


def test_the_usual_blend_draws_what_sample_scene_draws() -> None:
    a, b = np.random.default_rng(2), np.random.default_rng(2)
    assert [USUAL.sample(a, min_objects=3) for _ in range(5)] == [sample_scene(b, min_objects=3) for _ in range(5)]


def test_a_blend_has_its_shares() -> None:
    rng = np.random.default_rng(3)
    blend = SceneBlend(text=0.5)
    scenes = [blend.sample(rng) for _ in range(400)]
    words = np.mean([sum(item.kind == "word" for item in scene.objects) > 1 for scene in scenes])
    assert 0.2 < words < 0.5  # usual scenes have one word at most, two thirds of those with text have more


def test_entangled_scenes_overlap_more() -> None:
    rng = np.random.default_rng(4)
    usual = np.mean([covered_shares(USUAL.sample(rng)).sum() for _ in range(150)])
    entangled = SceneBlend(entangled=1.0, candidates=3)
    assert np.mean([covered_shares(entangled.sample(rng)).sum() for _ in range(150)]) > 1.4 * usual


def test_aligned_scenes_have_more_objects_in_a_column() -> None:
    rng = np.random.default_rng(5)
    usual = np.mean([num_aligned(USUAL.sample(rng)) for _ in range(150)])
    aligned = SceneBlend(aligned=1.0, candidates=4)
    assert np.mean([num_aligned(aligned.sample(rng)) for _ in range(150)]) > 1.8 * usual


def test_covered_objects_are_asked_for_more_often() -> None:
    rng = np.random.default_rng(5)
    scene = scene_of_squares((0, 0), (10, 0), (100, 0), (100, 60), (0, 100))
    covered = set(scene.objects[:2])

    def share(make: Maker) -> float:
        samples = [make(rng, scene) for _ in range(300)]
        return float(np.mean([sample is not None and sample.items[0] in covered for sample in samples]))

    assert share(make_identify) < 0.5 < share(make_identify_covered)
    assert make_identify_covered(rng, scene).task == "identify"
