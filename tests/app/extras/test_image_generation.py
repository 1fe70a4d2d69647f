"""Pictures from captions through diffusers: a tiny Stable Diffusion XL with random weights, made on the spot."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from app.extras import image_generation
from app.extras.image_generation import DrawingProgress, ImageGenerator, load_pipeline
from models.errors import MiniVLMError, RequestError
from tests.app.extras.tiny_pipeline import needs_diffusers, write_pipeline
from tests.tiny_model import quick_process

# What diffusers itself brings up while it is imported and loads.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """The tiny pipeline needs no more, and many threads only get in each other's way."""
    with quick_process():
        yield


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pipeline(tmp_path_factory.mktemp("pipeline"))


@needs_diffusers
def test_a_caption_becomes_a_picture_and_the_seed_decides_which(pipeline: Path) -> None:
    generator = ImageGenerator(str(pipeline), "cpu")

    def draw(seed: int) -> tuple[list[DrawingProgress], Image.Image]:
        *progress, picture = generator.draw("a cat", seed=seed, cancelled=threading.Event())
        assert isinstance(picture, Image.Image)
        return [step for step in progress if isinstance(step, DrawingProgress)], picture

    progress, first = draw(1)
    assert progress[0] == DrawingProgress(0, 0)
    assert [step.step for step in progress[1:]] == list(range(1, progress[-1].steps + 1))
    assert first.mode == "RGB"
    assert np.array_equal(np.array(first), np.array(draw(1)[1]))
    assert not np.array_equal(np.array(first), np.array(draw(2)[1]))


@needs_diffusers
def test_cancelling_ends_the_work_and_frees_the_pipeline(pipeline: Path) -> None:
    generator = ImageGenerator(str(pipeline), "cpu")
    cancelled = threading.Event()
    outputs = []
    for output in generator.draw("a cat", seed=1, cancelled=cancelled):
        outputs.append(output)
        if isinstance(output, DrawingProgress) and output.step == 2:
            cancelled.set()
    assert not any(isinstance(output, Image.Image) for output in outputs)
    assert max(output.step for output in outputs if isinstance(output, DrawingProgress)) < 50
    *_, picture = generator.draw("a cat", seed=1, cancelled=threading.Event())
    assert isinstance(picture, Image.Image)


@needs_diffusers
def test_a_picture_that_waits_its_turn_can_be_cancelled(pipeline: Path) -> None:
    generator = ImageGenerator(str(pipeline), "cpu")
    cancelled = threading.Event()
    with generator._turn:  # as another picture holds it
        waiting = generator.draw("a cat", seed=1, cancelled=cancelled)
        assert next(waiting) == DrawingProgress()
        cancelled.set()
        assert list(waiting) == []


@needs_diffusers
def test_the_original_negative_prompt_is_given(pipeline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, str] = {}
    real = load_pipeline(str(pipeline), "cpu")

    class Watched:
        def __call__(self, prompt: str, negative_prompt: str = "") -> object:
            seen.update(prompt=prompt, negative_prompt=negative_prompt)
            return real(prompt, negative_prompt=negative_prompt, num_inference_steps=1)

    monkeypatch.setattr(image_generation, "load_pipeline", lambda *_: Watched())
    *_, picture = ImageGenerator("any", "cpu").draw("a cat", seed=None, cancelled=threading.Event())
    assert isinstance(picture, Image.Image)  # though this pipeline takes neither a generator nor a callback
    assert seen == {"prompt": "a cat", "negative_prompt": image_generation.NEGATIVE_PROMPT}


@needs_diffusers
def test_a_pipeline_that_is_nowhere_is_one_line(tmp_path: Path) -> None:
    generator = ImageGenerator(str(tmp_path), "cpu")
    with pytest.raises(MiniVLMError, match=r"^The pipeline .* can't be loaded \(.*\)\. Set image_generator\.$"):
        list(generator.draw("a cat", seed=1, cancelled=threading.Event()))


def test_without_the_extra_the_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageGenerator, "is_installed", lambda: False)
    with pytest.raises(RequestError, match=r"diffusers, which is not installed: pip install -e \"\.\[generate\]\"$"):
        load_pipeline("any", "cpu")
