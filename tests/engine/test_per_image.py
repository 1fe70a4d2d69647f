"""What is computed once for an image object."""

from __future__ import annotations

import gc
import weakref

from PIL import Image

from engine.per_image import PerImage


def test_it_is_made_once_for_an_object_and_goes_with_it() -> None:
    asked: list[Image.Image] = []

    def make(image: Image.Image) -> int:
        asked.append(image)
        return image.width

    width_of = PerImage(make)
    image, alike = Image.new("RGB", (3, 4)), Image.new("RGB", (3, 4))
    assert [width_of(image), width_of(image), width_of(alike)] == [3, 3, 3]
    assert [one is image for one in asked] == [True, False]
    asked.clear()
    del image
    gc.collect()
    assert len(width_of) == 1
    assert width_of(alike) == 3


def test_it_is_never_that_of_another_object() -> None:
    """An address is given again once its object is gone."""
    width_of = PerImage(lambda image: image.width)
    image, other = Image.new("RGB", (3, 4)), Image.new("RGB", (5, 6))
    width_of._known[id(image)] = (weakref.ref(other), 5)
    assert width_of(image) == 3
