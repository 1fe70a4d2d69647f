"""Pictures as files, where there is no page: those that are asked about, and those that were drawn for answers."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from app.chat.exchange import IllustratedAnswer
from app.chat.pictures import Picture, open_picture
from models.conversation import Answer
from models.errors import RequestError


def read_picture(path: Path) -> Picture:
    """The picture in a file. Raises RequestError where it can't be read, and ImageError where it is none."""
    try:
        data = path.read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "its name is none"
        name = " ".join(str(path).split())  # of any file, in one line
        raise RequestError(f"image {name} can't be read ({reason}).") from error
    return open_picture(data, name=path.name)


def picture_of(answer: Answer) -> Image.Image | None:
    """The picture that was drawn for an answer."""
    return answer.picture if isinstance(answer, IllustratedAnswer) else None


def save_picture(picture: Image.Image, folder: Path, stem: str) -> Path:
    """Write `stem.png`, or `stem-2.png` and so on where that exists. Raises RequestError if it can't be written."""
    number, path = 1, folder / f"{stem}.png"
    while path.exists():
        number += 1
        path = folder / f"{stem}-{number}.png"
    try:
        picture.save(path)
    except OSError as error:
        raise RequestError(f"The picture can't be saved as {path} ({error.strerror or error}).") from error
    return path
