"""What was made of an image, kept as long as that image object: a long chat asks for the same one at every turn."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import Generic, TypeVar

from PIL import Image

Made = TypeVar("Made")


class PerImage(Generic[Made]):
    """`make(image)`, remembered by the object, as images can't be hashed and comparing pixels is slow. Any thread."""

    def __init__(self, make: Callable[[Image.Image], Made]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._known: dict[int, tuple[weakref.ref[Image.Image], Made]] = {}

    def __call__(self, image: Image.Image) -> Made:
        """What `make` gives for it; made again if two threads ask at once for the first time."""
        number = id(image)
        with self._lock:
            known = self._known.get(number)
        if known is not None and known[0]() is image:  # a number is given again to a later object
            return known[1]
        made = self._make(image)
        with self._lock:
            self._known[number] = weakref.ref(image, lambda _: self._known.pop(number, None)), made
        return made

    def __len__(self) -> int:
        """How many are remembered."""
        return len(self._known)
