"""Scenes -> the pixel values that training sees, with a little of the variation that resized uploads bring."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.random import Generator
from torch import Tensor

from training.scenes.render import render
from training.scenes.scene import Scene

_MEAN = torch.tensor((0.48145466, 0.4578275, 0.40821073)).view(1, 3, 1, 1)  # CLIP's, as every family uses them
_STD = torch.tensor((0.26862954, 0.26130258, 0.27577711)).view(1, 3, 1, 1)
_BINOMIAL = torch.tensor((1.0, 2.0, 1.0)) / 4


def pixel_values_of(scenes: list[Scene], rng: Generator | None = None) -> Tensor:
    """Normalised images [B, 3, side, side]; with `rng` also blurred, brightened and made noisy at random."""
    pixels = torch.from_numpy(np.stack([render(scene) for scene in scenes])).permute(0, 3, 1, 2).float() / 255
    if rng is not None:
        pixels = _augment(pixels, rng)
    return (pixels - _MEAN) / _STD


def _augment(pixels: Tensor, rng: Generator) -> Tensor:
    batch = len(pixels)

    def amounts(probability: float, low: float, high: float) -> Tensor:
        """One amount per image, 0 for those that stay as they are."""
        values = rng.uniform(low, high, batch) * (rng.random(batch) < probability)
        return torch.from_numpy(values).float().view(-1, 1, 1, 1)

    kernel = (_BINOMIAL[:, None] * _BINOMIAL[None, :]).expand(3, 1, 3, 3)
    blurred = F.conv2d(F.pad(pixels, (1, 1, 1, 1), mode="replicate"), kernel, groups=3)
    pixels = pixels + amounts(0.5, -0.4, 0.8) * (blurred - pixels)  # a negative amount sharpens
    pixels = pixels * (1 + amounts(0.4, -0.12, 0.12)) + amounts(0.4, -0.04, 0.04)
    noise = torch.from_numpy(rng.standard_normal(pixels.shape, dtype=np.float32))
    return (pixels + amounts(0.3, 0, 0.02) * noise).clamp(0, 1)
