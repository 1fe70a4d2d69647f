"""Images that wait for the vision tower go through it together."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

from engine.image_encoder import ImageEncoder, _Job
from models.vision_language_model import VisionLanguageModel
from tests.tiny_model import picture, tiny_model
from tests.waiting import eventually


@pytest.mark.parametrize(("at_once", "passes"), [(1, [1, 1, 1, 1, 1]), (3, [1, 3, 1])])
def test_those_that_wait_go_together(at_once: int, passes: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    expected = [model.encode_images([picture(n)])[0] for n in range(5)]
    sizes: list[int] = []
    may_end = threading.Event()
    embed = model.image_embeds

    def slow(pixel_values: Tensor) -> Tensor:
        sizes.append(len(pixel_values))
        assert may_end.wait(30)
        return embed(pixel_values)

    monkeypatch.setattr(model, "image_embeds", slow)
    encoder = ImageEncoder(model, at_once=at_once)
    with ThreadPoolExecutor(5) as pool:
        results = [pool.submit(encoder.encode, picture(0))]
        assert eventually(lambda: sizes == [1])  # the first is under way, the others come meanwhile
        results += [pool.submit(encoder.encode, picture(n)) for n in range(1, 5)]
        assert eventually(lambda: len(encoder._waiting) == 4)
        may_end.set()
        for result, features in zip(results, expected, strict=True):
            torch.testing.assert_close(result.result(30), features)
    assert sizes == passes


def test_a_thread_encodes_what_came_before_its_own_image() -> None:
    model = tiny_model()
    encoder = ImageEncoder(model, at_once=1)
    earlier = _Job(model.pixel_values([picture(1)]))
    encoder._waiting.append(earlier)
    torch.testing.assert_close(encoder.encode(picture(2)), model.encode_images([picture(2)])[0])
    torch.testing.assert_close(earlier.features, model.encode_images([picture(1)])[0])


def test_a_failed_pass_is_told_to_its_images_only(monkeypatch: pytest.MonkeyPatch) -> None:
    model: VisionLanguageModel = tiny_model()
    encoder = ImageEncoder(model, at_once=2)
    with monkeypatch.context() as patch:
        patch.setattr(model, "image_embeds", lambda _: torch.zeros(1) @ torch.zeros(2))
        with pytest.raises(RuntimeError):
            encoder.encode(picture(1))
    assert encoder.encode(picture(1)).shape == (4, 32)
