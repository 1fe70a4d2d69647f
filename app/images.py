"""Picture intake: whatever a user uploads as one upright RGB picture, or an ImageError that says what is wrong."""

from __future__ import annotations

import base64
import hashlib
import io
import struct
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from models.errors import ImageError

MAX_PIXELS = 50_000_000
PREVIEW_SIDE = 1024
LOSSLESS_PREVIEW_PIXELS = 256 * 256  # small drawings stay sharp as PNG; photographs are far smaller as JPEG

# Decoders that only read pixels. Pillow's others may start programs (EPS runs Ghostscript) or are rarely maintained.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "ICO", "AVIF")
NOT_IN_BROWSERS = ("TIFF", "PPM")
ADVICE = "Use a PNG, JPEG, WebP, GIF, BMP or TIFF file."


@dataclass(frozen=True, eq=False)
class Picture:
    """An uploaded picture: the full image for the model, a small preview for the page."""

    image: Image.Image
    name: str = "image"
    path: Path | None = None  # the file it was read from, which may be gone by now
    is_web_file: bool = True  # browsers can show that file

    @cached_property
    def preview(self) -> Image.Image:
        """The picture at no more than PREVIEW_SIDE pixels a side."""
        preview = self.image.copy()
        preview.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE), Image.Resampling.LANCZOS)
        return preview

    @cached_property
    def preview_uri(self) -> str:
        """The preview as a data URI: it needs no server file, so nobody else can fetch it and nothing expires."""
        return data_uri(self.preview)

    @cached_property
    def key(self) -> str:
        """A short name for the content, usable as an HTML id."""
        digest = hashlib.sha1(f"{self.image.size}".encode(), usedforsecurity=False)
        digest.update(self.preview.tobytes())
        return digest.hexdigest()[:12]


def open_picture(source: bytes | str | Path, *, name: str | None = None) -> Picture:
    """Decode a file or its bytes. Raises ImageError for what is not a picture, is cut off or is too large."""
    name = name or (Path(source).name if isinstance(source, str | Path) else "The image")
    try:
        file = io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb")  # noqa: SIM115
    except OSError as error:
        raise ImageError(f"{name} can't be read ({error.strerror}). Choose it again.") from error
    with file:
        try:
            with Image.open(file, formats=_formats()) as image:
                _check_size(image.size, name)
                image.load()
                path = None if isinstance(source, bytes) else Path(source)
                return Picture(to_rgb(image), name, path, image.format not in NOT_IN_BROWSERS)
        except UnidentifiedImageError as error:
            raise ImageError(f"{name} is not an image that can be read. {ADVICE}") from error
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise ImageError(_too_large(name)) from error
        except (OSError, SyntaxError, ValueError, EOFError, struct.error, IndexError) as error:
            raise ImageError(f"{name} is damaged or cut off. Save or download it again. {ADVICE}") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """First frame, upright, 8-bit RGB; transparent parts become white."""
    try:
        image = ImageOps.exif_transpose(image)
    except Exception:  # broken EXIF data says nothing about the pixels; the picture is used as it is
        image = image.copy()
    if image.mode.startswith(("I", "F")):
        image = _to_8_bit(image)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        paper = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(paper, rgba).convert("RGB")
    return image.convert("RGB")


def data_uri(image: Image.Image) -> str:
    """An RGB image as a `data:` URI."""
    buffer = io.BytesIO()
    lossless = image.width * image.height <= LOSSLESS_PREVIEW_PIXELS
    if lossless:
        image.save(buffer, "PNG", optimize=True)
    else:
        image.save(buffer, "JPEG", quality=88)
    kind = "png" if lossless else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _formats() -> list[str]:
    """FORMATS that this build of Pillow has; asking it for another is an error."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _check_size(size: tuple[int, int], name: str) -> None:
    width, height = size
    if width * height > MAX_PIXELS:
        raise ImageError(_too_large(name, f" ({width} x {height})"))


def _too_large(name: str, size: str = "") -> str:
    limit = MAX_PIXELS // 1_000_000
    return f"{name} is too large{size}: the limit is {limit} megapixels. Scale it down and upload it again."


def _to_8_bit(image: Image.Image) -> Image.Image:
    """Grey values of 16 or 32 bits or floats, which Pillow's own conversion would clip at 255."""
    values = np.nan_to_num(np.asarray(image).astype(np.float64))
    top = float(values.max(initial=0.0))
    if image.mode.startswith("I;16") or (image.mode == "I" and 255 < top <= 65535):
        values = values / 257.0
    elif image.mode == "F" and 0 < top <= 1:
        values = values * 255.0
    elif top > 255:
        values = values * (255.0 / top)
    return Image.fromarray(np.clip(np.rint(values), 0, 255).astype(np.uint8), "L")
