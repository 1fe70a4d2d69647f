"""The files in the text box: which are pictures, and what the page shows of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from app.chat.encoding import well_formed
from app.chat.pictures import STORE, Picture, check_beginning
from app.chat.questions import MAX_QUESTION_CHARACTERS, check_number_of_images
from app.page.page_state import PageState
from app.page.question.scratch import ScratchFolder
from models.errors import ImageError, MiniVLMError, RequestError
from models.model_info import ModelInfo

MAX_DRAFT_CHARACTERS = 5 * MAX_QUESTION_CHARACTERS


@dataclass(frozen=True)
class Attached:
    """What came of the files: those that become another file in the text box, or None for those that don't stay there;
    the pictures of the others (None if none was decoded because there are too many); why one does not stay; and whether
    the pictures are others than before."""

    renamed: dict[str, str | None]
    pictures: list[Picture] | None
    problem: MiniVLMError | None
    is_new: bool


class Attachments:
    """`scratch` takes the files that are written for the page."""

    def __init__(self, scratch: ScratchFolder) -> None:
        self.scratch = scratch
        self._written: WeakKeyDictionary[Picture, Path] = WeakKeyDictionary()

    def take(self, page: PageState, files: Sequence[str], info: ModelInfo) -> Attached:
        """Read the files for the next question; none before it is clear that they are not too many for the model."""
        before = list(page.attached.values())  # holds the pictures while their files get other names
        good, problem = _beginning_as_pictures(files)
        try:
            check_number_of_images(len(good), info)
        except RequestError as error:
            page.attach([])
            return Attached(dict.fromkeys(set(files) - set(good)), None, problem or error, is_new=True)
        for path in list(good):
            try:
                page.attach([*page.attached, path])
            except ImageError as error:
                good.remove(path)
                problem = error
        pictures = page.attach(good)
        is_new = {id(picture.image) for picture in before} != {id(picture.image) for picture in pictures}
        shown: dict[str, str | None] = dict.fromkeys(files)
        shown.update((path, self.file_of(picture)) for path, picture in zip(good, pictures, strict=True))
        others = {before: file for before, file in shown.items() if file != before}
        return Attached(others, pictures, problem, is_new)

    def file_of(self, picture: Picture) -> str:
        """A file with the picture for the text box: the one it came from, or a new one if browsers can't show that."""
        if picture.path is not None and picture.is_web_file and picture.path.is_file():
            return str(picture.path)
        if (file := self._written.get(picture)) is None or not file.is_file():
            file = self._written[picture] = self.scratch.save(lambda: picture.image)
            STORE.remember(picture, file)
        return str(file)


def _beginning_as_pictures(paths: Sequence[str]) -> tuple[list[str], MiniVLMError | None]:
    """The files that begin as pictures do, and why another one was left out."""
    good, problem = [], None
    for path in paths:
        try:
            check_beginning(path)
            good.append(path)
        except ImageError as error:
            problem = error
    return good, problem


def draft_of(value: dict[str, Any] | None) -> dict[str, Any] | None:
    """What the text box holds, to be put back later; None if that is nothing. Raises RequestError for too much."""
    if value is None or not is_filled(value):  # gradio takes nothing at all for a value, too
        return None
    if len(value["text"]) > MAX_DRAFT_CHARACTERS:
        raise RequestError(
            f"The text box holds {len(value['text'])} characters; the most that can be put aside is "
            f"{MAX_DRAFT_CHARACTERS}. Shorten it first."
        )
    return {"text": well_formed(value["text"]), "files": value["files"]}


def is_filled(value: dict[str, Any]) -> bool:
    """Whether the text box, whose value this is, holds anything."""
    return bool(value["text"].strip() or value["files"])
