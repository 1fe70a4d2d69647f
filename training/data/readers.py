"""What every reader of an annotation format gives: examples, by index.

A reader opens pictures and puts questions and answers into the words of the format; sequences and loss are not its
business. Which instruction, sentence or answer of several is taken comes from the random generator it is given, so that
the same step of a training run always sees the same example.
"""

from __future__ import annotations

import struct
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import IO

from PIL import Image

from models.conversation import Turn
from training.data.annotations import Annotation, Annotations


class MissingImage(Exception):
    """A picture that an annotation names is not there or cannot be decoded; such examples are counted and skipped."""


@dataclass(frozen=True)
class TrainingExample:
    """One example: turns by the user and the assistant in order, from a question to an answer.

    A question is its text without prompt template; "" where the picture alone is the prompt.
    """

    turns: tuple[Turn, ...]

    @property
    def questions(self) -> tuple[str, ...]:
        """What the user says."""
        return tuple(turn.text for turn in self.turns[::2])

    @property
    def answers(self) -> tuple[str, ...]:
        """What the model is to say."""
        return tuple(turn.text for turn in self.turns[1::2])

    @property
    def images(self) -> tuple[Image.Image, ...]:
        """All pictures."""
        return tuple(image for turn in self.turns for image in turn.images)


def make_example(
    questions: Sequence[str], answers: Sequence[str], images: Sequence[Image.Image] = ()
) -> TrainingExample:
    """An example whose pictures belong to its first question."""
    turns: list[Turn] = []
    for index, (question, answer) in enumerate(zip(questions, answers, strict=True)):
        turns += [Turn("user", question, () if index else tuple(images)), Turn("assistant", answer)]
    return TrainingExample(tuple(turns))


@dataclass(frozen=True, kw_only=True)
class DatasetPaths:
    """Where a data set lies: its annotation file (or folder, or shards) and the folder of its pictures."""

    annotations: str
    images: Path


class DatasetReader(ABC):
    """An annotated data set. Indices run from 0 to len - 1."""

    is_stream = False  # whether its order is random already, and indices may run on beyond its length
    num_left_out = 0  # examples (or shards) of the annotations that are not on this machine and never drawn

    def __init__(self, paths: DatasetPaths) -> None:
        self.paths = paths

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def example(self, index: int, rng: Random) -> TrainingExample:
        """The example. Raises DataError for a wrong field and MissingImage for a picture that cannot be had."""

    @abstractmethod
    def image_path(self, index: int) -> Path | None:
        """The picture's file, checked fields included; None for text alone. Raises DataError."""

    @abstractmethod
    def check(self, index: int) -> None:
        """Look at every field of the example, but not for its pictures. Raises DataError."""

    def image_paths(self, index: int) -> list[Path]:
        """The files of all its pictures, checked as `image_path` does."""
        path = self.image_path(index)
        return [] if path is None else [path]

    def num_words(self, index: int) -> int:
        """How long an example is, roughly; only formats that group by length have it."""
        raise NotImplementedError(f"{type(self).__name__} has no lengths to group by")

    def has_image(self, index: int) -> bool:
        """Whether the example comes with a picture."""
        return self.image_path(index) is not None


class AllItemsReader(DatasetReader):
    """A JSON list of which every item is an example."""

    def __init__(self, paths: DatasetPaths) -> None:
        super().__init__(paths)
        self.items = Annotations(Path(paths.annotations))

    def __len__(self) -> int:
        return len(self.items)


class JsonReader(DatasetReader):
    """A JSON list with one picture for each item."""

    key: str | None = None
    wants_existing_images = False  # leave out items without a picture already when the file is read

    def __init__(self, paths: DatasetPaths) -> None:
        super().__init__(paths)
        self.items = Annotations(Path(paths.annotations), key=self.key)
        self.indices = [index for index in range(len(self.items)) if self.is_kept(self.items[index])]
        if self.wants_existing_images:
            self.num_left_out = len(self.indices)
            self.indices = [i for i in self.indices if is_there(self.file_of(self.items[i]))]
            self.num_left_out -= len(self.indices)

    def is_kept(self, item: Annotation) -> bool:  # noqa: ARG002  # for subclasses that leave some out
        """Whether the format uses this item at all."""
        return True

    def __len__(self) -> int:
        return len(self.indices)

    @abstractmethod
    def file_of(self, item: Annotation) -> Path:
        """The picture's file."""

    @abstractmethod
    def turn(self, item: Annotation, rng: Random, size: tuple[int, int]) -> tuple[str, str]:
        """Question and answer about a picture of this size."""

    def image_path(self, index: int) -> Path:
        return self.file_of(self.items[self.indices[index]])

    def check(self, index: int) -> None:
        item = self.items[self.indices[index]]
        self.file_of(item)
        self.turn(item, Random(0), (1, 1))

    def example(self, index: int, rng: Random) -> TrainingExample:
        item = self.items[self.indices[index]]
        image = open_image(self.file_of(item))
        question, answer = self.turn(item, rng, image.size)
        return make_example((question,), (answer,), (image,))


# What Pillow raises for files that are cut off, altered or too large.
_NO_PICTURE = (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error, Image.DecompressionBombError)


def open_image(path: Path) -> Image.Image:
    """A picture as RGB. Raises MissingImage if it is not there or not a picture."""
    try:
        with path.open("rb") as file:
            return decode_image(file, str(path))
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        raise MissingImage(f"{path}: {error}") from error


def decode_image(file: IO[bytes], name: str) -> Image.Image:
    """An open file's picture as RGB; `name` is what messages call it. Raises MissingImage if it is not a picture."""
    try:
        return Image.open(file).convert("RGB")
    except _NO_PICTURE as error:
        raise MissingImage(f"{name}: {error}") from error


def is_there(path: Path) -> bool:
    """Whether a file exists; a name that the file system can't have does not."""
    try:
        return path.is_file()
    except OSError:
        return False


_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


def picture_named(folder: Path, name: str) -> Path:
    """The picture called `name`, which annotations give without its suffix; .jpg, as public data sets have it, first.

    A picture that is there under no suffix gets .jpg too.
    """
    candidates = [folder / f"{name}{suffix}" for suffix in _SUFFIXES]
    return next((path for path in candidates if is_there(path)), candidates[0])


def by_base_name(folder: Path, name: str) -> Path:
    """A picture by the last part of its annotated path, as the COCO data sets are unpacked."""
    return folder / name.rsplit("/", 1)[-1]
