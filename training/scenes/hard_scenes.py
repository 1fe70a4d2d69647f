"""Scenes with more of what is hard to see or to list: text, objects over each other or in a column. Training alone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from training.scenes import world as vocab
from training.scenes.scene import Scene, sample_scene, sample_text_scene

_TOUCHING = 0.1  # what boxes count that overlap by less, or are no further apart than `_NEAR`
_NEAR = 4  # pixels
_LEVEL = 3  # pixels between two left edges that hardly tell which object comes first in an answer


@dataclass(frozen=True, kw_only=True)
class SceneBlend:
    """Which scenes a stage is trained on. The shares are probabilities; the rest are as `sample_scene` draws them."""

    text: float = 0.0  # with several words and digits
    entangled: float = 0.0  # the one of `candidates` scenes whose objects overlap most
    alike: float = 0.0  # share of the entangled ones in which two objects that overlap have the same colour
    aligned: float = 0.0  # the one of `candidates` scenes with most objects in a column
    candidates: int = 2

    def sample(self, rng: Generator, *, min_objects: int = 1, max_objects: int = vocab.MAX_OBJECTS) -> Scene:
        """Draw a scene; scenes with text keep to a number of objects of their own."""
        kind = rng.random() if self.text or self.entangled or self.aligned else 1.0
        if kind < self.text:
            return sample_text_scene(rng)
        count = self.candidates if kind < self.text + self.entangled + self.aligned else 1
        scenes = [sample_scene(rng, min_objects=min_objects, max_objects=max_objects) for _ in range(count)]
        if count == 1:
            return scenes[0]
        if kind < self.text + self.entangled:
            scene = max(scenes, key=lambda scene: covered_shares(scene).sum())
            # Without a share nothing is drawn, so that a stage without one keeps its scenes.
            return with_alike_pair(scene, rng) if self.alike and rng.random() < self.alike else scene
        return max(scenes, key=num_aligned)


USUAL = SceneBlend()


def covered_shares(scene: Scene) -> NDArray[np.float64]:
    """[N]: the largest share of each object's box that also belongs to another's; near boxes count as touching."""
    largest: NDArray[np.float64] = _shared_boxes(scene).max(1)
    return largest


def with_alike_pair(scene: Scene, rng: Generator) -> Scene:
    """The scene with one object in the colour of another that it overlaps or touches, in a shade of its own.

    Unchanged where nothing touches, or where that would be a pair of shape and colour that training never shows.
    """
    shares = _shared_boxes(scene)
    if not shares.any():
        return scene
    first, second = divmod(int(rng.choice(shares.size, p=(shares / shares.sum()).flatten())), len(scene.objects))
    objects = list(scene.objects)
    colour, deviation = objects[second].colour, np.subtract(objects[first].rgb, vocab.COLOURS[objects[first].colour])
    red, green, blue = np.clip(np.add(vocab.COLOURS[colour], deviation), 0, 255).tolist()
    objects[first] = replace(objects[first], colour=colour, rgb=(red, green, blue))
    return scene if objects[first].is_held_out else replace(scene, objects=tuple(objects))


def _shared_boxes(scene: Scene) -> NDArray[np.float64]:
    """[N, N]: the share of each object's box (row) that also belongs to another's; 0 on the diagonal."""
    boxes = np.array([item.box for item in scene.objects], dtype=np.float64)
    starts = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
    ends = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    sides = ends - starts  # [N, N, 2], negative where there is a gap
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    shares = np.clip(sides, 0, None).prod(2) / areas[:, None]
    shares = np.maximum(shares, _TOUCHING * (sides > -_NEAR).all(2))
    np.fill_diagonal(shares, 0)
    return shares


def num_aligned(scene: Scene) -> int:
    """Pairs of objects whose left edges are level. Answers list objects by them, so these are easily mixed up."""
    starts = [item.box[0] for item in scene.objects]
    return sum(abs(a - b) <= _LEVEL for a, b in combinations(starts, 2))
