"""Colour profiles: what a profile says the numbers mean, as sRGB, for which page, screen and model take them."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import cache

import numpy as np
from PIL import Image, ImageCms

Conversion = Callable[[Image.Image], Image.Image]

# Levels of 255 by which a profile may differ from sRGB and still be one: profiles are written with rounded numbers.
SAME = 2

_MODES = {"RGB ": "RGB", "CMYK": "CMYK", "GRAY": "L"}  # colour space of a profile -> mode that it is about


def conversion_to_srgb(profile: bytes | None, mode: str) -> Conversion | None:
    """What takes a picture of this mode ("RGB", "L" or "CMYK") to sRGB, mode "RGB".

    None where nothing is to be done: no profile, one that is sRGB itself, and, as in browsers, one that is broken or
    about another kind of colour. The intent is perceptual, as in browsers.
    """
    if not profile:
        return None
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if _MODES.get(source.profile.xcolor_space) != mode:
            return None
        transform = ImageCms.buildTransform(source, _srgb(), mode, "RGB", ImageCms.Intent.PERCEPTUAL)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None

    def convert(image: Image.Image) -> Image.Image:
        converted = ImageCms.applyTransform(image, transform)
        assert converted is not None  # it is so only when asked to work in place
        return converted

    return None if mode != "CMYK" and _changes_nothing(convert, mode) else convert


@cache
def _srgb() -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))


def _changes_nothing(convert: Conversion, mode: str) -> bool:
    """Whether colours from all over the space stay as they are."""
    steps = np.linspace(0, 255, 256 if mode == "L" else 18).astype(np.uint8)
    grid = steps[None, :] if mode == "L" else np.stack(np.meshgrid(steps, steps, steps), -1).reshape(1, -1, 3)
    image = Image.fromarray(np.ascontiguousarray(grid))
    before, after = np.asarray(image.convert("RGB")).astype(int), np.asarray(convert(image)).astype(int)
    return bool(np.abs(after - before).max() <= SAME)
