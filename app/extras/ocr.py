"""Text in pictures, read by RapidOCR (the optional extra `ocr`): PaddleOCR's networks on ONNX Runtime.

Both packages and the networks are loaded when the first picture is read; nothing is downloaded.
"""

from __future__ import annotations

import hashlib
import importlib.util
import threading
from collections import OrderedDict
from typing import Any

from PIL import Image

from models.errors import RequestError
from models.extras import MIN_CONFIDENCE

INSTALL = 'pip install -e ".[ocr]"'
_REMEMBERED = 64  # pictures


class TextReader:
    """Reads the text in pictures, from any thread; what it has read in a picture it remembers."""

    def __init__(self) -> None:
        self._engine: Any = None
        self._lock = threading.Lock()
        self._known: OrderedDict[str, tuple[str, ...]] = OrderedDict()

    @staticmethod
    def is_installed() -> bool:
        """Whether the extra is there."""
        return all(importlib.util.find_spec(name) for name in ("rapidocr", "onnxruntime"))

    def read(self, image: Image.Image) -> tuple[str, ...]:
        """The pieces of text in an RGB picture, from top to bottom, those too uncertain left out.

        Raises RequestError with what to install where the extra is missing.
        """
        key = hashlib.sha256(f"{image.size}".encode() + image.tobytes()).hexdigest()
        with self._lock:
            if key not in self._known:
                self._known[key] = self._read(image)
            self._known.move_to_end(key)
            while len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
            return self._known[key]

    def _read(self, image: Image.Image) -> tuple[str, ...]:
        if self._engine is None:
            self._engine = load_engine()
        found = self._engine(image)
        pieces = zip(found.txts or (), found.scores or (), strict=True)
        return tuple(text for text, confidence in pieces if confidence > MIN_CONFIDENCE)


def check_installed() -> None:
    """Raises RequestError, with what to install, where the extra is missing."""
    if not TextReader.is_installed():
        raise RequestError(f"Reading the text in images needs RapidOCR, which is not installed: {INSTALL}")


def load_engine() -> Any:
    """RapidOCR with the networks that come in its package."""
    check_installed()
    from rapidocr import RapidOCR

    return RapidOCR(params={"Global.text_score": MIN_CONFIDENCE, "Global.log_level": "critical"})
