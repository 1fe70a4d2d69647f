"""Pictures -> pixel values, byte for byte as the originals prepared them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class SquareResize:
    """Resize to size x size (aspect ratio not kept), bicubic, CLIP normalisation.

    Source: MiniGPT-4, `blip_processors.py`, `Blip2ImageEvalProcessor`.
    """

    size: int

    def __call__(self, image: Image.Image) -> Tensor:
        """RGB picture of any size -> [3, size, size] float32."""
        return normalise(resize_square(image.convert("RGB"), self.size))

    def key(self, image: Image.Image) -> str:
        """A hash of the picture's content and of this preprocessing."""
        return content_key(image, f"square-{self.size}")


@dataclass(frozen=True)
class PadAndResize:
    """Pad to a centred square with the mean colour, then resize to size x size, bicubic, CLIP normalisation.

    Source: LLaVA, `mm_utils.py`, `expand2square` and `process_images`.
    """

    size: int

    def __call__(self, image: Image.Image) -> Tensor:
        """RGB picture of any size -> [3, size, size] float32."""
        image = image.convert("RGB")
        side = max(image.size)
        square = Image.new("RGB", (side, side), tuple(int(255 * value) for value in CLIP_MEAN))
        square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
        return normalise(resize_square(square, self.size))

    def key(self, image: Image.Image) -> str:
        """A hash of the picture's content and of this preprocessing."""
        return content_key(image, f"padded-{self.size}")


def resize_square(image: Image.Image, size: int) -> Image.Image:
    """Bicubic resize to size x size in two calls, width first.

    A single call gives other bytes for tall pictures from Pillow 13 on.
    """
    image = image.resize((size, image.height), Image.Resampling.BICUBIC)
    return image.resize((size, size), Image.Resampling.BICUBIC)


def normalise(image: Image.Image, mean: Sequence[float] = CLIP_MEAN, std: Sequence[float] = CLIP_STD) -> Tensor:
    """RGB picture [H, W] -> [3, H, W] float32: /255, minus mean, over std (as torchvision's ToTensor, Normalize)."""
    values = torch.from_numpy(np.array(image, dtype=np.uint8)).permute(2, 0, 1).float().div(255)
    return (values - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)


def content_key(image: Image.Image, preprocessing: str) -> str:
    """SHA-256 over the pixels, the size and the name of the preprocessing."""
    digest = hashlib.sha256(f"{preprocessing} {image.mode} {image.size}".encode())
    digest.update(image.tobytes())
    return digest.hexdigest()
