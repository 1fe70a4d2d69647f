"""Reading the text in pictures: with the real engine where it is installed, and memory with a scripted one."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from app.extras.ocr import TextReader

PICTURE = Image.new("RGB", (40, 30), "red")
needs_ocr = pytest.mark.skipif(not TextReader.is_installed(), reason='no OCR here: pip install -e ".[ocr]"')


@needs_ocr
def test_real_ocr_reads_drawn_words_once() -> None:
    image = Image.new("RGB", (600, 300), "white")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(60)
    draw.text((40, 40), "STOP", fill="black", font=font)
    draw.text((40, 160), "EXIT 42", fill="red", font=font)
    reader = TextReader()
    assert reader.read(image) == ("STOP", "EXIT 42")
    reader._engine = None  # a second look would need to load it again
    assert reader.read(image.copy()) == ("STOP", "EXIT 42")
    assert reader._engine is None
    assert reader.read(Image.new("RGB", (64, 64), "white")) == ()


def test_reading_remembers_and_forgets(monkeypatch: pytest.MonkeyPatch) -> None:
    """With an engine that is a script: each picture is read once, until too many others came."""

    class Found:
        txts, scores = ("sure", "hardly"), (0.9, 0.05)

    seen: list[Image.Image] = []

    def engine(image: Image.Image) -> Found:
        seen.append(image)
        return Found()

    monkeypatch.setattr("app.extras.ocr.load_engine", lambda: engine)
    reader = TextReader()
    assert [reader.read(PICTURE) for _ in range(3)] == [("sure",)] * 3
    assert len(seen) == 1
    for value in range(64):
        reader.read(Image.fromarray(np.full((4, 4, 3), value, dtype=np.uint8)))
    reader.read(PICTURE)
    assert len(seen) == 66
