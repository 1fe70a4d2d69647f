"""A model with its aids: reads the text in images for it, and draws what its answers describe (see models/aids.py).

Both happen in the thread that reads the answer, never in the engine's, whose place for this chat is free by the time a
picture is drawn.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Generator, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Protocol

from PIL import Image

from app import image_generation
from app.chat_model import ChatModel
from app.image_generation import ImageGenerator, Progress
from app.ocr import TextReader, check_installed
from models.aids import caption_of, with_picture_request, with_read_text
from models.conversation import Answer, Sampling, Turn
from models.errors import MiniVLMError
from models.model_info import ModelInfo

NO_CAPTION = "The model described no picture, so none was drawn. Ask for one in words; small models often fail to."


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What a question asks for beside an answer."""

    reads_text: bool = False
    wants_picture: bool = False


def usual_wishes(info: ModelInfo) -> Wishes:
    """What the questions to a model ask for unless they say otherwise."""
    aids = info.aids
    return Wishes() if aids is None else Wishes(reads_text=aids.ocr, wants_picture=aids.generate)


@dataclass(frozen=True)
class Question(Turn):
    """A user's turn with its wishes."""

    wishes: Wishes = Wishes()


@dataclass(frozen=True, kw_only=True)
class IllustratedAnswer(Answer):
    """An answer to a question that wanted a picture. `progress` says how far it is, while it is not there."""

    picture: Image.Image | None = dataclasses.field(default=None, compare=False)
    has_picture: bool = False
    progress: str = ""


class Reader(Protocol):
    """Reads text in pictures: `TextReader`, or a script in tests."""

    def read(self, image: Image.Image) -> Sequence[str]:
        """The pieces of text."""


class Drawer(Protocol):
    """Draws pictures: `ImageGenerator`, or a script in tests."""

    def draw(self, caption: str, *, seed: int | None, cancelled: threading.Event) -> Iterator[Progress | Image.Image]:
        """Progress, then the picture."""


class AidedModel:
    """A chat model whose questions may have wishes. `generator` is None where the extra for it is not installed."""

    def __init__(self, model: ChatModel, *, reader: Reader, generator: Drawer | None) -> None:
        self._model = model
        self._reader = reader
        self._generator = generator

    @property
    def info(self) -> ModelInfo:
        """Facts about the model."""
        return self._model.info

    def neutralise(self, text: str) -> str:
        """User text with every control token of the model broken."""
        return self._model.neutralise(text)

    def stream(self, turns: Sequence[Turn], sampling: Sampling) -> AidedStream:
        """Answers so far; for questions with wishes, with notices and a picture."""
        return AidedStream(self._model, self._reader, self._generator, tuple(turns), sampling)


def with_aids(model: ChatModel) -> ChatModel:
    """The model with the aids it was trained with, or as it is. Raises RequestError if OCR is on but not installed."""
    aids = model.info.aids
    if aids is None:
        return model
    if aids.ocr:
        check_installed()
    has_generator = ImageGenerator.is_installed()
    generator = ImageGenerator(aids.image_generator, model.info.device) if has_generator else None
    return AidedModel(model, reader=TextReader(), generator=generator)


class AidedStream:
    """Iterator of answers. `close` works from any thread, also while another waits in `next`."""

    def __init__(
        self,
        model: ChatModel,
        reader: Reader,
        generator: Drawer | None,
        turns: tuple[Turn, ...],
        sampling: Sampling,
    ) -> None:
        self._model = model
        self._reader = reader
        self._generator = generator
        self._turns = turns
        self._sampling = sampling
        self._cancelled = threading.Event()
        self._inner: Any = None
        self._answers = self._run()

    def __iter__(self) -> AidedStream:
        return self

    def __next__(self) -> Answer:
        return next(self._answers)

    def close(self) -> None:
        """Stop reading, answering or drawing."""
        self._cancelled.set()
        self._leave_model()
        with suppress(ValueError):
            self._answers.close()

    def _run(self) -> Generator[Answer]:
        turns, notices = self._prepared()
        if self._cancelled.is_set():
            return
        last = self._turns[-1]
        wants_picture = isinstance(last, Question) and last.wishes.wants_picture
        self._inner = self._model.stream(turns, self._sampling)
        try:
            for answer in self._inner:
                answer = replace(answer, notices=(*notices, *answer.notices))
                is_complete = answer.finish_reason in ("stop", "length")
                if wants_picture and is_complete:
                    self._leave_model()
                    yield from self._illustrated(answer)
                else:
                    yield answer
                if self._cancelled.is_set():
                    return
        finally:
            self._leave_model()

    def _leave_model(self) -> None:
        with suppress(ValueError):  # a generator that is busy in another thread ends there, by `_cancelled`
            getattr(self._inner, "close", lambda: None)()

    def _prepared(self) -> tuple[list[Turn], tuple[str, ...]]:
        """The turns as the model was trained to read them, and what was read in the last one's image."""
        turns: list[Turn] = []
        notices: tuple[str, ...] = ()
        images: tuple[Image.Image, ...] = ()
        for turn in self._turns:
            images = turn.images or images
            wishes = turn.wishes if isinstance(turn, Question) else Wishes()
            text = turn.text
            if wishes.reads_text and images:
                # A picture can say anything: its text is no more allowed to be a control token than the user's.
                pieces = [self._model.neutralise(piece) for image in images for piece in self._reader.read(image)]
                text = with_read_text(text, pieces)
                notices = (f"Text read in the image: {', '.join(pieces)}",) if pieces else ("No text was found.",)
            if wishes.wants_picture:
                text = with_picture_request(text)
            turns.append(Turn(turn.role, text, turn.images))
        last = self._turns[-1]
        return turns, notices if isinstance(last, Question) and last.wishes.reads_text else ()

    def _illustrated(self, answer: Answer) -> Iterator[Answer]:
        """The finished answer while its picture is being drawn, then with it, or with why there is none."""
        caption = caption_of(answer.text)
        if caption is None:
            yield replace(answer, notices=(*answer.notices, NO_CAPTION))
            return
        if self._generator is None:
            missing = f"To have it drawn, install diffusers: {image_generation.INSTALL}"
            yield replace(answer, notices=(*answer.notices, missing))
            return
        values = {field.name: getattr(answer, field.name) for field in dataclasses.fields(answer)}
        illustrated = IllustratedAnswer(**values)
        picture: Image.Image | None = None
        try:
            for output in self._generator.draw(caption, seed=self._sampling.seed, cancelled=self._cancelled):
                if isinstance(output, Progress):
                    yield replace(illustrated, finish_reason=None, progress=_describe(output))
                else:
                    picture = output
        except MiniVLMError as error:  # the text stays
            yield replace(answer, notices=(*answer.notices, f"No picture: {error}"))
            return
        if picture is not None:
            yield replace(illustrated, picture=picture, has_picture=True)


def _describe(progress: Progress) -> str:
    return f"Drawing the picture: step {progress.step} of {progress.steps}" if progress.steps else "Drawing the picture"
