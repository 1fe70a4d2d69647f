"""Pictures as text: files of PNG or JPEG, and `data:` URIs of them."""

from __future__ import annotations

import base64
import io
from typing import Any, Literal

from PIL import Image

PictureFormat = Literal["png", "jpeg"]


def picture_file(image: Image.Image, kind: PictureFormat, **options: Any) -> bytes:
    """An RGB or RGBA image as a file of this kind, with Pillow's options for it."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def picture_uri(image: Image.Image, kind: PictureFormat, **options: Any) -> str:
    """As `picture_file`, as a data URI."""
    return file_uri(picture_file(image, kind, **options), f"image/{kind}")


def file_uri(file: bytes, mime_type: str) -> str:
    """A file as a data URI."""
    return f"data:{mime_type};base64,{base64.b64encode(file).decode()}"
