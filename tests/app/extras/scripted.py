"""Extras from a script: text that is read in any picture, and a picture that is drawn for any caption."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace

from PIL import Image

from app.chat.exchange import WantedExtras
from app.extras.image_generation import DrawingProgress
from models.extras import Extras
from tests.fakes import INFO

OTHER = Image.new("RGB", (30, 40), "blue")
READS, DRAWS = WantedExtras(reads_text=True), WantedExtras(wants_picture=True)
EXTENDED_INFO = replace(INFO, tasks=INFO.tasks[:1], extras=Extras())


class ScriptedReader:
    """Reads the same in every picture, and counts."""

    def __init__(self, *pieces: str) -> None:
        self.pieces, self.seen = pieces, 0

    def read(self, image: Image.Image) -> Sequence[str]:
        self.seen += 1
        return self.pieces


class ScriptedGenerator:
    """Draws one picture in two steps; waits at `gate` before the second."""

    def __init__(self, *, is_gated: bool = False, error: Exception | None = None) -> None:
        self.gate = threading.Event()
        if not is_gated:
            self.gate.set()
        self.error = error
        self.captions: list[str] = []
        self.has_stopped = threading.Event()

    def draw(
        self, caption: str, *, seed: int | None, cancelled: threading.Event
    ) -> Iterator[DrawingProgress | Image.Image]:
        self.captions.append(caption)
        yield DrawingProgress(1, 2)
        if self.error is not None:
            raise self.error
        while not self.gate.wait(0.01):
            if cancelled.is_set():
                self.has_stopped.set()
                return
        yield OTHER
