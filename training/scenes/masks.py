"""Anti-aliased masks of shapes and glyphs, drawn once per form and cached.

A mask is drawn at MASK_SCALE times the scene's resolution. The copy for scale 1 is its bicubic reduction, because
that is what the image processor does to a picture drawn at the large scale: training images look like shown ones.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

MASK_SCALE = 3
_OVERSAMPLING = 2  # drawing is not anti-aliased by PIL: draw twice as large again, then average
_PADDING = 2  # empty pixels (scale 1) around the drawing, so that bicubic ringing is not cut off

Point = tuple[float, float]


@dataclass(frozen=True)
class ObjectMasks:
    """Coverage in 0…1 of an object (`alpha`) and of its pattern's second colour (`accent`), both [height, width]."""

    large_alpha: NDArray[np.float32]  # at MASK_SCALE
    large_accent: NDArray[np.float32]
    alpha: NDArray[np.float32]  # at scale 1
    accent: NDArray[np.float32]
    solid: NDArray[np.bool_]  # alpha > 0.5 at scale 1
    box: tuple[float, float, float, float]  # tight box inside the mask, pixels at scale 1


@lru_cache(maxsize=20_000)
def object_masks(kind: str, name: str, pixels: int, angle: int, pattern: str) -> ObjectMasks:
    """Masks of one object of `pixels` size (scale 1), rotated by `angle` degrees."""
    factor = MASK_SCALE * _OVERSAMPLING
    drawing = _draw_shape(name, pixels * factor) if kind == "shape" else _draw_text(name, pixels * factor)
    drawing = drawing.rotate(angle, Image.Resampling.BICUBIC, expand=True)
    drawing = _pad_to_grid(drawing.crop(drawing.getbbox()), factor)
    large = drawing.reduce(_OVERSAMPLING)
    accent = _draw_pattern(pattern, large)
    small_size = (large.width // MASK_SCALE, large.height // MASK_SCALE)
    large_alpha = _to_array(large)
    rows, columns = np.nonzero(large_alpha > 0.5)
    alpha = _to_array(large.resize(small_size, Image.Resampling.BICUBIC))
    return ObjectMasks(
        large_alpha=large_alpha,
        large_accent=_to_array(accent),
        alpha=alpha,
        accent=_to_array(accent.resize(small_size, Image.Resampling.BICUBIC)),
        solid=alpha > 0.5,
        box=(
            float(columns.min()) / MASK_SCALE,
            float(rows.min()) / MASK_SCALE,
            float(columns.max() + 1) / MASK_SCALE,
            float(rows.max() + 1) / MASK_SCALE,
        ),
    )


def _to_array(mask: Image.Image) -> NDArray[np.float32]:
    return np.asarray(mask, dtype=np.float32) / 255.0


def _pad_to_grid(drawing: Image.Image, factor: int) -> Image.Image:
    """Put the drawing on a canvas whose sides are whole pixels at scale 1."""
    width = (math.ceil(drawing.width / factor) + 2 * _PADDING) * factor
    height = (math.ceil(drawing.height / factor) + 2 * _PADDING) * factor
    canvas = Image.new("L", (width, height))
    canvas.paste(drawing, ((width - drawing.width) // 2, (height - drawing.height) // 2))
    return canvas


def _draw_text(text: str, height: int) -> Image.Image:
    """Bold capital letters or a digit; `height` is that of a capital letter, in pixels of the drawing."""
    font = ImageFont.load_default(size=height * 1.3)
    stroke = max(1, height // 16)
    left, top, right, bottom = font.getbbox(text.upper(), stroke_width=stroke)
    mask = Image.new("L", (math.ceil(right - left), math.ceil(bottom - top)))
    ImageDraw.Draw(mask).text((-left, -top), text.upper(), fill=255, font=font, stroke_width=stroke)
    return mask.resize((round(mask.width * height / mask.height), height), Image.Resampling.BICUBIC)


def _draw_shape(name: str, size: int) -> Image.Image:
    """A shape whose longest side is about `size` pixels of the drawing."""
    mask = Image.new("L", (size, size))
    draw = ImageDraw.Draw(mask)
    if name in _POLYGONS:
        draw.polygon([(x * size, y * size) for x, y in _POLYGONS[name]], fill=255)
        return mask
    draw.ellipse((0, 0, size - 1, size - 1), fill=255)
    if name == "ring":
        draw.ellipse((0.27 * size, 0.27 * size, 0.73 * size, 0.73 * size), fill=0)
    elif name == "moon":
        draw.ellipse((0.34 * size, -0.02 * size, 1.18 * size, 0.82 * size), fill=0)
    return mask


def _draw_pattern(pattern: str, alpha: Image.Image) -> Image.Image:
    """Where the second colour lies, at MASK_SCALE; lengths below are pixels of that scale."""
    width, height = alpha.size
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    if pattern == "striped":
        on = ((rows + columns) % 26) < 10
    elif pattern == "dotted":
        # Every second row of dots is shifted by half a period.
        shifted = columns + np.where((rows // 20) % 2 > 0, 10, 0)
        on = np.hypot(rows % 20 - 10, shifted % 20 - 10) < 5.5
    elif pattern == "outlined":
        inner = alpha
        for _ in range(8):
            inner = inner.filter(ImageFilter.MinFilter(3))
        on = np.asarray(inner) < 128
    else:
        on = np.zeros((height, width), dtype=bool)
    return Image.fromarray(np.where(on, 255, 0).astype(np.uint8))


def _star() -> list[Point]:
    radii = (0.52, 0.22)
    return [
        (
            0.5 + radii[i % 2] * math.sin(i * math.pi / 5),
            0.53 - radii[i % 2] * math.cos(i * math.pi / 5),
        )
        for i in range(10)
    ]


def _heart() -> list[Point]:
    points = []
    for i in range(60):
        t = 2 * math.pi * i / 60
        x = 16 * math.sin(t) ** 3
        y = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
        points.append((0.5 + x / 33, 0.46 - y / 33))
    return points


_POLYGONS: dict[str, list[Point]] = {
    "square": [(0.06, 0.06), (0.94, 0.06), (0.94, 0.94), (0.06, 0.94)],
    "triangle": [(0.5, 0.03), (1.0, 0.95), (0.0, 0.95)],
    "diamond": [(0.5, 0.0), (0.88, 0.5), (0.5, 1.0), (0.12, 0.5)],
    "cross": [
        *((0.34, 0.0), (0.66, 0.0), (0.66, 0.34), (1.0, 0.34), (1.0, 0.66), (0.66, 0.66)),
        *((0.66, 1.0), (0.34, 1.0), (0.34, 0.66), (0.0, 0.66), (0.0, 0.34), (0.34, 0.34)),
    ],
    "arrow": [(0.0, 0.34), (0.52, 0.34), (0.52, 0.08), (1.0, 0.5), (0.52, 0.92), (0.52, 0.66), (0.0, 0.66)],
    "star": _star(),
    "heart": _heart(),
}
"""Corners in fractions of the drawing, origin top left."""
