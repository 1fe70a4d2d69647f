"""Scene parameters -> pixels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.scenes.masks import MASK_SCALE, object_masks
from training.scenes.scene import Background, Scene, SceneObject
from training.scenes.world import IMAGE_SIZE


def render(scene: Scene, *, large: bool = False) -> NDArray[np.uint8]:
    """Draw a scene as RGB [side, side, 3]: IMAGE_SIZE pixels wide, or MASK_SCALE times that if `large`."""
    scale = MASK_SCALE if large else 1
    canvas = _draw_background(scene.background, scale)
    for item in scene.objects:
        masks = object_masks(item.kind, item.name, item.pixels, item.angle, item.pattern)
        alpha, accent = (masks.large_alpha, masks.large_accent) if large else (masks.alpha, masks.accent)
        height, width = alpha.shape
        top, left = item.top * scale, item.left * scale
        window = canvas[top : top + height, left : left + width]
        first = np.array(item.rgb, dtype=np.float32)
        paint: NDArray[np.float32] = first
        if item.pattern != "solid":
            paint = first + accent[..., None] * (accent_colour(item, scene.background) - first)
        window += alpha[..., None] * (paint - window)
    return np.clip(canvas + 0.5, 0, 255).astype(np.uint8)


def render_image(scene: Scene) -> Image.Image:
    """Draw a scene at the size in which people look at it."""
    return Image.fromarray(render(scene, large=True))


def owner_map(scene: Scene) -> NDArray[np.int64]:
    """Index of the topmost object per pixel at scale 1, -1 for the background: [IMAGE_SIZE, IMAGE_SIZE]."""
    owner = np.full((IMAGE_SIZE, IMAGE_SIZE), -1, dtype=np.int64)
    for index, item in enumerate(scene.objects):
        solid = object_masks(item.kind, item.name, item.pixels, item.angle, item.pattern).solid
        owner[item.top : item.top + solid.shape[0], item.left : item.left + solid.shape[1]][solid] = index
    return owner


def accent_colour(item: SceneObject, background: Background) -> NDArray[np.float32]:
    """Second colour of a pattern: dark on light backgrounds and light on dark ones, so that outlines stand out."""
    rgb = np.array(item.rgb, dtype=np.float32)
    if background.colour in ("white", "gray"):
        return rgb * np.float32(0.25)
    return rgb + np.float32(0.75) * (255 - rgb)


def _draw_background(background: Background, scale: int) -> NDArray[np.float32]:
    """A texture whose brightness varies around the background's colour: float [side, side, 3]."""
    side = IMAGE_SIZE * scale
    position = (np.arange(side, dtype=np.float32) + 0.5) / scale  # pixel centres in pixels at scale 1
    x, y = position[None, :], position[:, None]
    along = x * np.float32(np.cos(background.angle)) + y * np.float32(np.sin(background.angle))
    if background.texture == "gradient":
        shade = (along - along.mean()) / IMAGE_SIZE * np.float32(0.8)
    elif background.texture == "striped":
        shade = np.where(along % background.period < background.period / 2, 0.13, -0.13)
    elif background.texture == "checked":
        shade = np.where((x // background.period + y // background.period) % 2 > 0, 0.13, -0.13)
    elif background.texture == "noisy":
        shade = _noise(background.noise_seed, side)
    else:
        shade = np.zeros((1, 1), dtype=np.float32)
    # The strength has a floor in grey levels: 13 % of black would be invisible.
    strength = np.maximum(np.array(background.rgb, dtype=np.float32), 90)
    canvas = np.array(background.rgb, dtype=np.float32) + shade.astype(np.float32)[..., None] * strength
    return np.clip(np.broadcast_to(canvas, (side, side, 3)), 0, 255).astype(np.float32)


def _noise(seed: int, side: int) -> NDArray[np.float32]:
    """Blotches of about four pixels (scale 1), the same ones at every scale."""
    coarse = np.random.default_rng(seed).normal(0, 0.16, (IMAGE_SIZE // 4, IMAGE_SIZE // 4)).astype(np.float32)
    return np.asarray(Image.fromarray(coarse).resize((side, side), Image.Resampling.BILINEAR))
