"""The pictures of a saved chat: as data URIs, small enough together that the file can be opened, and back."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from math import prod

from PIL import Image

from app.chat.json_fields import Value
from app.chat.picture_uri import file_uri, picture_file
from app.chat.pictures import Picture, open_picture

MAX_BYTES = 25 * 1024 * 1024  # of a file
MAX_PICTURES = 100
MAX_PIXELS = 100_000_000  # of all pictures together
MAX_LINE_CHARACTERS = 2000  # of a notice, an error, a name
SIDES = (2048, 1536, 1024, 768, 512)  # of a saved picture in pixels: the first with which all fit
PICTURE_BYTES = 16 * 1024 * 1024  # of all pictures together, before they are written as text


def pictures_json(pictures: Mapping[str, Picture]) -> dict[str, dict[str, str]]:
    """Name and data URI of each; they are scaled down so far that all fit."""
    files = next(files for side in SIDES if _fit(files := {key: _file(p, side) for key, p in pictures.items()}, side))
    return {
        key: {"name": pictures[key].name, "data": file_uri(file, f"image/{kind}")}
        for key, (kind, file) in files.items()
    }


def _fit(files: dict[str, tuple[str, bytes]], side: int) -> bool:
    return side == SIDES[-1] or sum(len(file) for _, file in files.values()) <= PICTURE_BYTES


def _file(picture: Picture, side: int) -> tuple[str, bytes]:
    """A picture at no more than `side` pixels a side, as PNG if that is small enough to keep every pixel, else JPEG."""
    image = picture.image.copy()
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    file = picture_file(image, "png")
    return ("png", file) if len(file) <= side * side // 8 else ("jpeg", picture_file(image, "jpeg", quality=92))


def picture_bytes(value: Value) -> int:
    """How many bytes of a file are pictures. Raises RequestError where there are none."""
    entries = [entry.object("name", "data") for _, entry in value.entries(MAX_PICTURES)]
    return sum(len(one["data"].text(MAX_BYTES)) for one in entries)


def read_pictures(value: Value) -> dict[str, Picture]:
    """The pictures of a file by their keys. Raises RequestError, and ImageError for one that is no picture."""
    pictures = {}
    num_pixels = 0
    for key, entry in value.entries(MAX_PICTURES):
        one = entry.object("name", "data")
        kind, comma, data = one["data"].text(MAX_BYTES).partition(",")
        if not comma or kind not in ("data:image/png;base64", "data:image/jpeg;base64"):
            raise one["data"].wrong("must be a data URI of a PNG or JPEG picture")
        try:
            file = base64.b64decode(data, validate=True)
        except (binascii.Error, ValueError):
            raise one["data"].wrong("is damaged: its base64 can't be read") from None
        picture = open_picture(file, name=one["name"].text(MAX_LINE_CHARACTERS) or "image")
        num_pixels += prod(picture.size)
        if num_pixels > MAX_PIXELS:
            raise value.wrong(f"have more than {MAX_PIXELS // 1_000_000} megapixels together")
        pictures[key] = picture
    return pictures
