"""Pixels as the originals prepared them, with any Pillow."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from models.preprocessing import CLIP_MEAN, CLIP_STD, CropAndResize, PadAndResize, SquareResize, normalise
from tests.paths import DATA

DATA = DATA / "preprocess"
CASES = json.loads((DATA / "expected.json").read_text())["cases"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['image']}-{case['target']}")
def test_resize_gives_the_recorded_bytes(case: dict[str, Any]) -> None:
    pixel_values = SquareResize(case["target"])(Image.open(DATA / case["image"]))
    std, mean = (torch.tensor(values).view(3, 1, 1) for values in (CLIP_STD, CLIP_MEAN))
    pixels = ((pixel_values * std + mean) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    assert pixels.sum(dtype=np.int64) == case["sum"]
    assert hashlib.md5(np.ascontiguousarray(pixels).tobytes()).hexdigest() == case["md5_of_uint8_hwc"]


def test_key_depends_on_content_alone() -> None:
    resize = SquareResize(56)
    image = Image.open(DATA / "tall.png").convert("RGB")
    other = image.copy()
    other.putpixel((3, 4), (1, 2, 3))
    assert resize.key(image) == resize.key(image.copy())
    assert len({resize.key(image), resize.key(other), SquareResize(112).key(image)}) == 3


def test_key_depends_on_the_shape_and_on_all_of_the_preprocessing() -> None:
    wide, tall = Image.new("RGB", (64, 32)), Image.new("RGB", (32, 64))
    half = (0.5, 0.5, 0.5)
    processors: list[SquareResize | PadAndResize | CropAndResize] = [
        *(kind(size) for kind in (SquareResize, PadAndResize, CropAndResize) for size in (56, 112)),
        *(kind(56, mean=half) for kind in (SquareResize, PadAndResize)),
        *(kind(56, std=half) for kind in (SquareResize, PadAndResize)),
    ]
    keys = {processor.key(image) for processor in processors for image in (wide, tall)}
    assert len(keys) == 2 * len(processors)


def test_key_is_of_the_colours_and_not_of_palette_entries() -> None:
    red, blue = (Image.new("P", (64, 64)) for _ in range(2))
    red.putpalette([255, 0, 0])
    blue.putpalette([0, 0, 255])
    for processor in (SquareResize(32), PadAndResize(32), CropAndResize(32)):
        assert processor.key(red) != processor.key(blue)
        assert processor.key(red) == processor.key(Image.new("RGB", (64, 64), (255, 0, 0)))


@pytest.mark.parametrize("size", [(700, 300), (300, 700), (257, 256), (64, 64), (5, 900)])
def test_padding_in_strips_is_padding_at_once(size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    side = max(size)
    square = Image.new("RGB", (side, side), (122, 116, 104))
    square.paste(image, ((side - size[0]) // 2, (side - size[1]) // 2))
    square = square.resize((96, side), Image.Resampling.BICUBIC).resize((96, 96), Image.Resampling.BICUBIC)
    assert torch.equal(PadAndResize(96)(image), normalise(square))


@pytest.mark.parametrize("size", [(700, 300), (300, 701), (96, 96), (50, 40)])
def test_crop_keeps_the_middle(size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    width, height = (int(96 * side / min(size)) for side in size)
    large = image.resize((width, image.height), Image.Resampling.BICUBIC)
    large = large.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - 96) // 2, (height - 96) // 2
    assert torch.equal(CropAndResize(96)(image), normalise(large)[:, top : top + 96, left : left + 96])
