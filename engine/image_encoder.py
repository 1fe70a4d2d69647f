"""Encoding images in batches: one pass of the vision tower at a time, over the images that wait when it begins."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from models.vision_language_model import VisionLanguageModel


@dataclass(eq=False)
class _Job:
    """An image to encode: pixel values [1, …] in, features [N, H] or an error out."""

    pixels: Tensor
    features: Tensor | None = None
    error: BaseException | None = None

    @property
    def is_done(self) -> bool:
        return self.features is not None or self.error is not None


class ImageEncoder:
    """Encodes images for many threads, batching those that wait; thread-safe.

    A pass takes up to `at_once` images; `lock` is held while it runs. Each thread prepares its own pixel
    values. The thread that gets the lock encodes the waiting images of all threads, until its own is done.
    """

    def __init__(self, model: VisionLanguageModel, *, at_once: int) -> None:
        self._model = model
        self._at_once = at_once
        self._waiting: list[_Job] = []
        self._guard = threading.Lock()
        self.lock = threading.Lock()

    def encode(self, image: Image.Image) -> Tensor:
        """A picture's image tokens [N, H]. Raises whatever its pass raised."""
        job = _Job(self._model.pixel_values([image]))
        with self._guard:
            self._waiting.append(job)
        with self.lock:
            while not job.is_done:
                with self._guard:
                    batch, self._waiting = self._waiting[: self._at_once], self._waiting[self._at_once :]
                self._run(batch)
        if job.error is not None:
            raise job.error
        assert job.features is not None
        return job.features

    def _run(self, batch: list[_Job]) -> None:
        try:
            with torch.inference_mode():
                features = self._model.image_embeds(torch.cat([job.pixels for job in batch]))
        except Exception as error:
            if len(batch) == 1:
                batch[0].error = error
            else:  # one image, or all together: each alone tells
                for job in batch:
                    self._run([job])
            return
        for job, found in zip(batch, features, strict=True):
            job.features = found
