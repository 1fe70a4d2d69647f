"""Small things that the tests of the app share."""

from __future__ import annotations

import time
from collections.abc import Callable

from PIL import Image, ImageDraw

from app.images import Picture


def scene() -> Image.Image:
    """A red disc at 10..45 by 20..60 percent and a blue square, on grey."""
    image = Image.new("RGB", (200, 100), (225, 222, 214))
    draw = ImageDraw.Draw(image)
    draw.ellipse((20, 20, 90, 60), fill=(200, 40, 40))
    draw.rectangle((120, 30, 180, 90), fill=(40, 60, 200))
    return image


def picture(colour: str = "red") -> Picture:
    return Picture(Image.new("RGB", (8, 8), colour), f"{colour}.png")


def eventually(condition: Callable[[], bool], *, timeout: float = 20) -> bool:
    """Whether a condition that another thread brings about comes true; the time limit only ends a failing test."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return condition()
