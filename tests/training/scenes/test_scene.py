"""The scene generator: same seed same picture, true boxes, nothing held out in training."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from training.scenes import draw_scene
from training.scenes import world as vocab
from training.scenes.masks import MASK_SCALE, object_masks
from training.scenes.render import owner_map, render, render_image
from training.scenes.scene import MIN_VISIBLE, Scene, SceneObject, sample_scene

SCENES = [sample_scene(np.random.default_rng(seed)) for seed in range(40)]


def area(item: SceneObject) -> int:
    return int(object_masks(item.kind, item.name, item.pixels, item.angle, item.pattern).solid.sum())


def test_the_same_seed_gives_the_same_picture() -> None:
    assert draw_scene(5).tobytes() == draw_scene(5).tobytes()
    assert draw_scene(5).tobytes() != draw_scene(6).tobytes()


def test_scenes_for_people_are_drawn_larger() -> None:
    side = vocab.IMAGE_SIZE * MASK_SCALE
    assert render_image(SCENES[0]).size == (side, side)
    assert render(SCENES[0]).shape == (vocab.IMAGE_SIZE, vocab.IMAGE_SIZE, 3)


@pytest.mark.parametrize("scene", SCENES[:10])
def test_the_reduced_large_picture_looks_like_the_small_one(scene: Scene) -> None:
    reduced = render_image(scene).resize((vocab.IMAGE_SIZE, vocab.IMAGE_SIZE), Image.Resampling.BICUBIC)
    difference = np.abs(np.asarray(reduced, dtype=float) - render(scene))
    assert difference.mean() < 3  # grey levels; what is left lies on the edges of background stripes


@pytest.mark.parametrize("scene", SCENES)
def test_boxes_lie_inside_the_picture_and_fit_the_pixels(scene: Scene) -> None:
    for item in scene.objects:
        x0, y0, x1, y1 = item.box
        assert 0 <= x0 < x1 <= vocab.IMAGE_SIZE
        assert 0 <= y0 < y1 <= vocab.IMAGE_SIZE
        alone = owner_map(replace(scene, objects=(item,))) == 0
        rows, columns = np.nonzero(alone)
        drawn = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        assert np.abs(np.array(drawn) - item.box).max() <= 2  # sharp tips fade below half at scale 1


def test_the_pixels_of_an_object_have_its_colour() -> None:
    scene = next(s for s in SCENES if s.objects[0].pattern == "solid")
    item = scene.objects[-1]
    inside = owner_map(scene) == len(scene.objects) - 1
    median = np.median(render(scene)[inside], axis=0)
    if item.pattern == "solid":
        assert np.abs(median - np.array(item.rgb)).max() <= 2


@pytest.mark.parametrize("scene", SCENES)
def test_most_of_every_object_stays_visible(scene: Scene) -> None:
    visible = np.bincount(owner_map(scene).ravel() + 1, minlength=len(scene.objects) + 1)[1:]
    for count, item in zip(visible, scene.objects, strict=True):
        assert count >= MIN_VISIBLE * area(item) - 1


def test_scenes_have_up_to_eight_objects_of_every_kind() -> None:
    assert {len(scene.objects) for scene in SCENES} >= {1, 2, 3, 4, 5, 6, 7}
    assert {item.kind for scene in SCENES for item in scene.objects} == {"shape", "digit", "word"}


def test_training_scenes_never_contain_a_held_out_pair() -> None:
    rng = np.random.default_rng(11)
    assert not any(item.is_held_out for _ in range(100) for item in sample_scene(rng).objects)


def test_held_out_scenes_always_contain_one() -> None:
    rng = np.random.default_rng(12)
    for _ in range(50):
        assert any(item.is_held_out for item in sample_scene(rng, held_out="always").objects)


def test_reading_order_is_left_to_right() -> None:
    for scene in SCENES:
        lefts = [item.box[0] for item in scene.reading_order]
        assert lefts == sorted(lefts)
