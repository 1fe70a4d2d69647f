"""A model with its extras: text in images is read for it, and what its answers describe is drawn (models/extras.py).

Both happen in the thread that reads the answer. The engine's thread does neither, and the chat has left the engine by
the time a picture is drawn.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from typing import Protocol

from PIL import Image

from app.chat.exchange import IllustratedAnswer, Question, WantedExtras
from app.extras import image_generation
from app.extras.image_generation import DrawingProgress, ImageGenerator
from app.extras.ocr import TextReader, check_installed
from engine.chat_model import ChatModel, GeneratorStream, Stream
from models.conversation import Answer, Sampling, Turn
from models.errors import MiniVLMError
from models.extras import caption_of, with_picture_request, with_read_text
from models.model_info import ModelInfo
from models.routing_trace import RoutingTrace

NO_CAPTION = "The model described no picture, so none was drawn. Ask for one in words; small models often fail to."


class Reader(Protocol):
    """Reads text in pictures: `TextReader`, or a script in tests."""

    def read(self, image: Image.Image) -> Sequence[str]:
        """The pieces of text."""


class Drawer(Protocol):
    """Draws pictures: `ImageGenerator`, or a script in tests."""

    def draw(
        self, caption: str, *, seed: int | None, cancelled: threading.Event
    ) -> Iterator[DrawingProgress | Image.Image]:
        """Progress, then the picture."""


class ExtendedModel(ChatModel):
    """A chat model whose questions may ask for extras. `generator` is None where the extra for it is not installed."""

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

    def stream(self, turns: Sequence[Turn], sampling: Sampling) -> ExtendedStream:
        """Answers so far; for questions that ask for extras, with notices and a picture."""
        return ExtendedStream(self._model, self._reader, self._generator, tuple(turns), sampling)

    def routing(self, turns: Sequence[Turn], answer: str, sampling: Sampling) -> RoutingTrace:
        """The routing of the conversation as the model read it: with what was read in images, and asked to be drawn."""
        return self._model.routing(prepared(self._model, self._reader, turns)[0], answer, sampling)


def with_extras(model: ChatModel) -> ChatModel:
    """The model with the extras it was trained with, if any, unless it has them already.

    Raises RequestError if OCR is on but not installed.
    """
    offered = model.info.extras
    if offered is None or isinstance(model, ExtendedModel):
        return model
    if offered.ocr:
        check_installed()
    has_generator = ImageGenerator.is_installed()
    first = model.info.device.partition(",")[0]
    generator = ImageGenerator(offered.image_generator, first) if has_generator else None
    return ExtendedModel(model, reader=TextReader(), generator=generator)


def prepared(model: ChatModel, reader: Reader, asked: Sequence[Turn]) -> tuple[list[Turn], tuple[str, ...]]:
    """The turns as the model was trained to read them, and what was read in the last one's image, as a notice."""
    turns: list[Turn] = []
    notices: tuple[str, ...] = ()
    images: tuple[Image.Image, ...] = ()
    for turn in asked:
        images = turn.images or images
        extras = turn.extras if isinstance(turn, Question) else WantedExtras()
        text = turn.text
        if extras.reads_text and images:
            # A picture can say anything: its text is no more allowed to be a control token than the user's.
            pieces = [model.neutralise(piece) for image in images for piece in reader.read(image)]
            text = with_read_text(text, pieces)
            notices = (f"Text read in the image: {', '.join(pieces)}",) if pieces else ("No text was found.",)
        if extras.wants_picture:
            text = with_picture_request(text)
        turns.append(Turn(turn.role, text, turn.images))
    last = asked[-1]
    return turns, notices if isinstance(last, Question) and last.extras.reads_text else ()


class ExtendedStream(GeneratorStream):
    """The model's stream with what comes before it, reading, and after it, drawing."""

    def __init__(
        self,
        model: ChatModel,
        reader: Reader,
        generator: Drawer | None,
        turns: tuple[Turn, ...],
        sampling: Sampling,
    ) -> None:
        super().__init__(self._run())
        self._model = model
        self._reader = reader
        self._generator = generator
        self._turns = turns
        self._sampling = sampling
        self._cancelled = threading.Event()
        self._inner: Stream | None = None

    def close(self) -> None:
        """Stop reading, answering or drawing."""
        self._cancelled.set()
        self._leave_model()
        super().close()

    def _run(self) -> Generator[Answer]:
        turns, notices = prepared(self._model, self._reader, self._turns)
        if self._cancelled.is_set():
            return
        last = self._turns[-1]
        wants_picture = isinstance(last, Question) and last.extras.wants_picture
        self._inner = self._model.stream(turns, self._sampling)
        try:
            if self._cancelled.is_set():  # by another thread, which may have found no stream to close yet
                return
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
        if self._inner is not None:
            self._inner.close()

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
                if isinstance(output, DrawingProgress):
                    yield replace(illustrated, finish_reason=None, progress=_describe(output))
                else:
                    picture = output
        except MiniVLMError as error:  # the text stays
            yield replace(answer, notices=(*answer.notices, f"No picture: {error}"))
            return
        if picture is not None:
            yield replace(illustrated, picture=picture, has_picture=True)


def _describe(progress: DrawingProgress) -> str:
    return f"Drawing the picture: step {progress.step} of {progress.steps}" if progress.steps else "Drawing the picture"
