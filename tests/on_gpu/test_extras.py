"""What works beside the model on GPUs: text that is read in an image, and a picture that is drawn on the first."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from app.chat.exchange import IllustratedAnswer, Question, WantedExtras
from app.extras.extended_model import with_extras
from app.extras.ocr import TextReader
from engine.chat_engine import ChatEngine
from tests.app.extras.tiny_pipeline import needs_diffusers, write_pipeline
from tests.on_gpu.tiny_families import GREEDY, Gpus, load, question, without_graphs

# What diffusers itself brings up while it is imported and loads.
pytestmark = [needs_diffusers, pytest.mark.filterwarnings("ignore")]
WANTED = WantedExtras(reads_text=True, wants_picture=True)


def answer(device: str, pipeline: Path) -> IllustratedAnswer:
    options = [f"image_generator={pipeline}", "trained_with_extras=true"]
    model = load("mini_gemini", device, overrides=options)
    with ChatEngine(model, max_concurrent=1, kv_bytes=1 << 26, update_interval=0) as engine:
        asked = Question("user", "Describe this image.", question(0)[0].images, WANTED)
        *_, last = with_extras(engine).stream([asked], replace(GREEDY, seed=1))
    assert isinstance(last, IllustratedAnswer)
    return last


def test_they_are_those_of_the_cpu(tmp_path: Path, gpus: Gpus, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny model describes no picture, so the caption is given; pictures are drawn in 16 bits on a GPU."""
    without_graphs(monkeypatch)
    monkeypatch.setattr(TextReader, "read", lambda *_: ("EXIT 42",))
    monkeypatch.setattr("app.extras.extended_model.caption_of", lambda _: "a cat")
    pipeline = write_pipeline(tmp_path)
    ours, expected = answer("cuda:0,cuda:1", pipeline), answer("cpu", pipeline)
    assert (ours.text, ours.notices) == (expected.text, expected.notices)
    assert "Text read in the image: EXIT 42" in ours.notices
    assert gpus[0].counts.reads > 0
    assert isinstance(ours.picture, Image.Image)
    assert isinstance(expected.picture, Image.Image)
    difference = np.abs(np.array(ours.picture, dtype=int) - np.array(expected.picture, dtype=int))
    assert difference.mean() < 20
