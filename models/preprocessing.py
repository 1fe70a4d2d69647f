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
ROWS = 256  # of a large picture that are worked on at a time


@dataclass(frozen=True)
class SquareResize:
    """Resize to size x size (aspect ratio not kept), bicubic; CLIP normalisation by default.

    Source: MiniGPT-4, `blip_processors.py`, `Blip2ImageEvalProcessor`; transformers, `SiglipImageProcessor`.
    """

    size: int
    mean: tuple[float, ...] = CLIP_MEAN
    std: tuple[float, ...] = CLIP_STD

    def __call__(self, image: Image.Image) -> Tensor:
        """RGB picture of any size -> [3, size, size] float32."""
        return normalise(resize_square(as_rgb(image), self.size), self.mean, self.std)

    def key(self, image: Image.Image) -> str:
        """A hash of the picture's content and of this preprocessing."""
        return content_key(image, f"square-{self.size}-{self.mean}-{self.std}")


@dataclass(frozen=True)
class PadAndResize:
    """Pad to a centred square with the mean colour, then resize to size x size, bicubic; CLIP normalisation by default.

    Source: LLaVA, `mm_utils.py`, `expand2square` and `process_images`.
    """

    size: int
    mean: tuple[float, ...] = CLIP_MEAN
    std: tuple[float, ...] = CLIP_STD

    def __call__(self, image: Image.Image) -> Tensor:
        """RGB picture of any size -> [3, size, size] float32."""
        return normalise(self._square(as_rgb(image)), self.mean, self.std)

    def _square(self, image: Image.Image) -> Image.Image:
        side = max(image.size)
        left, top = (side - image.width) // 2, (side - image.height) // 2
        colour = tuple(int(255 * value) for value in self.mean)
        # Width first (see `resize_square`), where rows do not touch each other: the large square never exists.
        narrow = Image.new("RGB", (self.size, side), colour)
        for row in range(0, image.height, ROWS):
            strip = image.crop((0, row, image.width, min(row + ROWS, image.height)))
            padded = Image.new("RGB", (side, strip.height), colour)
            padded.paste(strip, (left, 0))
            narrow.paste(padded.resize((self.size, strip.height), Image.Resampling.BICUBIC), (0, top + row))
        return narrow.resize((self.size, self.size), Image.Resampling.BICUBIC)

    def key(self, image: Image.Image) -> str:
        """A hash of the picture's content and of this preprocessing."""
        return content_key(image, f"padded-{self.size}-{self.mean}-{self.std}")


@dataclass(frozen=True)
class CropAndResize:
    """Resize the shorter side to `size`, bicubic, cut the central square out, CLIP normalisation.

    Source: transformers, `CLIPImageProcessor`; LLaVA uses it where `image_aspect_ratio` is not "pad".
    """

    size: int

    def __call__(self, image: Image.Image) -> Tensor:
        """RGB picture of any size -> [3, size, size] float32."""
        image = as_rgb(image)
        width, height = (int(self.size * side / min(image.size)) for side in image.size)
        # Width first, as in `resize_square`.
        image = image.resize((width, image.height), Image.Resampling.BICUBIC)
        image = image.resize((width, height), Image.Resampling.BICUBIC)
        left, top = (width - self.size) // 2, (height - self.size) // 2
        return normalise(image.crop((left, top, left + self.size, top + self.size)))

    def key(self, image: Image.Image) -> str:
        """A hash of the picture's content and of this preprocessing."""
        return content_key(image, f"cropped-{self.size}")


def as_rgb(image: Image.Image) -> Image.Image:
    """The picture in RGB; itself if it is, as `convert` would copy it all the same."""
    return image if image.mode == "RGB" else image.convert("RGB")


def resize_square(image: Image.Image, size: int) -> Image.Image:
    """Bicubic resize to size x size in two calls, width first.

    A single call gives other bytes for tall pictures from Pillow 13 on.
    """
    image = image.resize((size, image.height), Image.Resampling.BICUBIC)
    return image.resize((size, size), Image.Resampling.BICUBIC)


def normalise(image: Image.Image, mean: Sequence[float] = CLIP_MEAN, std: Sequence[float] = CLIP_STD) -> Tensor:
    """RGB picture [H, W] -> [3, H, W] float32: /255, minus mean, over std (as torchvision's ToTensor, Normalize)."""
    values = torch.from_numpy(np.array(image, dtype=np.uint8)).permute(2, 0, 1).float().div(255)
    return values.sub_(torch.tensor(mean).view(3, 1, 1)).div_(torch.tensor(std).view(3, 1, 1))


def content_key(image: Image.Image, preprocessing: str) -> str:
    """SHA-256 over the pixels in RGB, the size and the name of the preprocessing."""
    digest = hashlib.sha256(f"{preprocessing} {image.size}".encode())
    for row in range(0, image.height, ROWS):  # the bytes of the whole picture would be a second copy of it
        digest.update(as_rgb(image.crop((0, row, image.width, min(row + ROWS, image.height)))).tobytes())
    return digest.hexdigest()
