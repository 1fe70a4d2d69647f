"""The parameters of a scene and how they are drawn at random."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from training.scenes import world as vocab
from training.scenes.masks import object_masks

ObjectKind = Literal["shape", "digit", "word"]
HeldOutRule = Literal["never", "any", "always"]

COUNT_WEIGHTS = (0.08, 0.14, 0.17, 0.17, 0.15, 0.12, 0.09, 0.08)
"""How often a scene has 1, 2, … 8 objects."""

MIN_VISIBLE = 0.7
"""Later objects may cover an earlier one, but at least this share of its pixels stays visible."""

ANGLES = (-12, -8, -4, 0, 4, 8, 12)
"""Rotations in degrees: small, so that a square never becomes a diamond."""


@dataclass(frozen=True, kw_only=True)
class SceneObject:
    """One thing in a scene. `name` is the shape, the digit or the word; lengths are pixels at scale 1."""

    kind: ObjectKind
    name: str
    colour: str
    size: str
    pattern: str
    pixels: int  # longest side of a shape, height of the glyphs of a digit or word
    angle: int  # degrees, counter-clockwise
    rgb: tuple[int, int, int]
    left: int = 0  # position of the mask, not of the tight box
    top: int = 0

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Tight box x0, y0, x1, y1 in pixels of the whole object, also of parts that something else covers."""
        x0, y0, x1, y1 = object_masks(self.kind, self.name, self.pixels, self.angle, self.pattern).box
        return self.left + x0, self.top + y0, self.left + x1, self.top + y1

    @property
    def centre(self) -> tuple[float, float]:
        """Centre x, y of the box in pixels."""
        x0, y0, x1, y1 = self.box
        return (x0 + x1) / 2, (y0 + y1) / 2

    @property
    def is_held_out(self) -> bool:
        """Whether this shape in this colour is kept out of training."""
        return (self.name, self.colour) in vocab.HELD_OUT

    def unseen_relatives(self) -> list[SceneObject]:
        """What training never shows, but for one word the same: the name in its held-out colour, and the reverse."""
        recoloured = [replace(self, colour=colour) for name, colour in vocab.HELD_OUT if name == self.name]
        renamed = [replace(self, kind="shape", name=name) for name, colour in vocab.HELD_OUT if colour == self.colour]
        return recoloured + renamed


@dataclass(frozen=True, kw_only=True)
class Background:
    """Colour name, texture name and the random numbers that fix how the texture looks."""

    colour: str
    texture: str
    rgb: tuple[int, int, int]
    angle: float  # direction of gradient and stripes, radians
    period: int  # of stripes and checks, pixels at scale 1
    noise_seed: int


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Objects in drawing order (later ones lie on top) on a background."""

    background: Background
    objects: tuple[SceneObject, ...]

    @property
    def reading_order(self) -> tuple[SceneObject, ...]:
        """The objects from left to right, the order in which every answer lists them."""
        return tuple(sorted(self.objects, key=lambda item: item.box))


def sample_scene(
    rng: Generator,
    *,
    min_objects: int = 1,
    max_objects: int = vocab.MAX_OBJECTS,
    held_out: HeldOutRule = "never",
) -> Scene:
    """Draw one scene.

    `held_out` says whether the held-out (shape, colour) pairs may occur: never (training), any, or always
    (at least one object is such a pair, for measuring them).
    """
    weights = np.array(COUNT_WEIGHTS[min_objects - 1 : max_objects])
    count = min_objects + int(rng.choice(len(weights), p=weights / weights.sum()))
    background = _sample_background(rng)
    candidates = _sample_objects(rng, count, held_out)
    min_visible = MIN_VISIBLE if rng.random() < 0.6 else 1.0
    return Scene(background=background, objects=_place(rng, candidates, min_visible))


def sample_text_scene(rng: Generator) -> Scene:
    """Draw a scene of several words and digits and at most two shapes, for training; no held-out pairs."""
    candidates = [_sample_shape(rng, "never", 2) for _ in range(int(rng.integers(3)))]
    for digit in rng.choice(10, int(rng.integers(1, 4)), replace=False):
        candidates.append(_sample_digit(rng, str(digit)))
    for _ in range(int(rng.integers(1, 4))):
        candidates.append(_sample_word(rng))
    return Scene(background=_sample_background(rng), objects=_place(rng, candidates, MIN_VISIBLE))


def _sample_background(rng: Generator) -> Background:
    colour = _choose(rng, tuple(vocab.BACKGROUND_COLOURS))
    return Background(
        colour=colour,
        texture=_choose(rng, vocab.BACKGROUND_TEXTURES),
        rgb=_jitter(rng, vocab.BACKGROUND_COLOURS[colour], 8),
        angle=float(rng.choice([0.0, 0.25, 0.5, 0.75])) * np.pi,
        period=int(rng.integers(10, 19)),
        noise_seed=int(rng.integers(1 << 31)),
    )


def _sample_objects(rng: Generator, count: int, held_out: HeldOutRule) -> list[SceneObject]:
    """Objects without positions: shapes first, then at most two digits and one word, which lie on top."""
    num_digits = min(int(rng.choice(3, p=[0.5, 0.38, 0.12])), count)
    num_words = min(int(rng.random() < 0.4), count - num_digits)
    if held_out == "always" and num_digits + num_words == count:
        num_digits = num_words = 0
    num_shapes = count - num_digits - num_words
    objects = [_sample_shape(rng, held_out if i == 0 else _relaxed(held_out), count) for i in range(num_shapes)]
    if len(objects) > 1 and rng.random() < 0.35:  # look-alikes make counting and phrases with a size necessary
        objects[-1] = replace(objects[-1], name=objects[0].name, colour=objects[0].colour, rgb=objects[0].rgb)
    digits = rng.choice(10, num_digits, replace=False)
    objects += [_sample_digit(rng, str(digit)) for digit in digits]
    objects += [_sample_word(rng) for _ in range(num_words)]
    return objects


def _relaxed(held_out: HeldOutRule) -> HeldOutRule:
    """The rule for the objects after the first: one held-out pair per scene is enough."""
    return "any" if held_out == "always" else held_out


def _sample_shape(rng: Generator, held_out: HeldOutRule, count: int) -> SceneObject:
    pairs = [(name, colour) for name in vocab.SHAPES for colour in vocab.COLOURS]
    if held_out != "any":
        pairs = [pair for pair in pairs if (pair in vocab.HELD_OUT) == (held_out == "always")]
    name, colour = pairs[int(rng.integers(len(pairs)))]
    weights = [0.3, 0.35, 0.35] if count <= 4 else [0.45, 0.35, 0.2]  # crowded scenes need smaller objects
    size = tuple(vocab.SIZES)[int(rng.choice(3, p=weights))]
    low, high = vocab.SIZES[size]
    pattern = "solid" if size == "small" or rng.random() < 0.45 else _choose(rng, vocab.PATTERNS[1:])
    return SceneObject(
        kind="shape",
        name=name,
        colour=colour,
        size=size,
        pattern=pattern,
        pixels=int(rng.integers(low, high + 1)),
        angle=int(rng.choice(ANGLES)),
        rgb=_jitter(rng, vocab.COLOURS[colour], 14),
    )


def _sample_digit(rng: Generator, digit: str) -> SceneObject:
    size = _choose(rng, tuple(vocab.SIZES))
    return _sample_text(rng, "digit", digit, size, vocab.SIZES[size])


def _sample_word(rng: Generator) -> SceneObject:
    return _sample_text(rng, "word", _choose(rng, vocab.WORDS), "medium", vocab.WORD_HEIGHTS)


def _sample_text(rng: Generator, kind: ObjectKind, text: str, size: str, limits: tuple[int, int]) -> SceneObject:
    colour = _choose(rng, tuple(vocab.COLOURS))
    return SceneObject(
        kind=kind,
        name=text,
        colour=colour,
        size=size,
        pattern="solid",
        pixels=int(rng.integers(limits[0], limits[1] + 1)),
        angle=int(rng.choice((-4, 0, 4))),
        rgb=_jitter(rng, vocab.COLOURS[colour], 14),
    )


def _place(rng: Generator, candidates: Sequence[SceneObject], min_visible: float) -> tuple[SceneObject, ...]:
    """Give every object a position where it fits; one that fits nowhere is left out (the first always fits)."""
    owner = np.full((vocab.IMAGE_SIZE, vocab.IMAGE_SIZE), -1, dtype=np.int64)
    areas: list[int] = []
    placed: list[SceneObject] = []
    for candidate in candidates:
        masks = object_masks(candidate.kind, candidate.name, candidate.pixels, candidate.angle, candidate.pattern)
        solid = masks.solid
        height, width = solid.shape
        allowed = min_visible if candidate.kind == "shape" else max(min_visible, 0.85)
        for _ in range(40):
            top = int(rng.integers(0, vocab.IMAGE_SIZE - height + 1))
            left = int(rng.integers(0, vocab.IMAGE_SIZE - width + 1))
            window = owner[top : top + height, left : left + width]
            if _stays_visible(window[solid], owner, areas, allowed):
                window[solid] = len(placed)
                areas.append(int(solid.sum()))
                placed.append(replace(candidate, left=left, top=top))
                break
    return tuple(placed)


def _stays_visible(
    covered: NDArray[np.int64], owner: NDArray[np.int64], areas: Sequence[int], min_visible: float
) -> bool:
    """Whether every object keeps its visible share when the pixels `covered` (owners) are painted over."""
    hidden = np.bincount(covered[covered >= 0], minlength=len(areas))
    if not hidden.any():
        return True
    return all(
        (owner == index).sum() - hidden[index] >= min_visible * areas[index]
        for index in np.flatnonzero(hidden).tolist()
    )


def _choose(rng: Generator, options: Sequence[str]) -> str:
    return options[int(rng.integers(len(options)))]


def _jitter(rng: Generator, rgb: tuple[int, int, int], amount: int) -> tuple[int, int, int]:
    red, green, blue = np.clip(np.array(rgb) + rng.integers(-amount, amount + 1, 3), 0, 255).tolist()
    return red, green, blue
