"""Answers without the page: a chat in the terminal, and a file of questions.

They go through transformers' `generate`, which has beam search and prompt lookup; the page's engine has neither. What
`--ocr` and `--gen` add is the page's own (app/aids.py).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

from PIL import Image
from torch import Tensor
from transformers.generation.streamers import BaseStreamer

from app.aids import IllustratedAnswer, Question, usual_wishes, with_aids
from app.chat_model import ChatModel
from app.decoding import AnswerText
from app.engine_prompt import check_turns, drop_oldest, fit_prompt
from app.images import open_picture
from app.questions import check_question
from app.sampling import check
from models.conversation import Answer, Sampling, Turn
from models.errors import MiniVLMError, RequestError
from models.generation import generate
from models.model_info import ModelInfo
from models.parts.packed_weights import pack_weights
from models.vision_language_model import VisionLanguageModel

HELP = "/image FILE shows the model another image, /new begins a new chat, /quit ends."


class Terminal:
    """A conversation read from one stream and written to another."""

    def __init__(
        self,
        model: VisionLanguageModel,
        *,
        image: Path | None = None,
        num_beams: int = 1,
        prompt_lookup: int = 0,
        read: Callable[[str], str] = input,
        out: TextIO = sys.stdout,
    ) -> None:
        self._is_streamed = num_beams == 1  # with beams there is nothing to show before the end
        streamed_to = out if self._is_streamed else None
        generating = GeneratingModel(model, num_beams=num_beams, prompt_lookup=prompt_lookup, out=streamed_to)
        self._chat = with_aids(generating)
        self._read = read
        self._out = out
        self._turns: list[Turn] = []
        self._images = () if image is None else (open_picture(image).image,)

    def run(self) -> None:
        """Questions and answers until /quit or the end of the input."""
        print(f"{self._chat.info.name}. {HELP}", file=self._out)
        while True:
            try:
                line = self._read("> ").strip()
            except EOFError:
                return
            if line == "/quit":
                return
            try:
                self._obey(line)
            except MiniVLMError as error:
                print(f"error: {error}", file=self._out)

    def _obey(self, line: str) -> None:
        command, _, rest = line.partition(" ")
        if command == "/image" and rest.strip():
            self._images = (open_picture(rest.strip()).image,)
            if self._turns and self._chat.info.one_image_per_chat:
                print("A new image begins a new chat.", file=self._out)
                self._turns = []
        elif command == "/new":
            self._turns = []
        elif command.startswith("/"):
            print(HELP, file=self._out)
        elif line:
            self._ask(line)

    def _ask(self, text: str) -> None:
        has_image = bool(self._images) or any(turn.images for turn in self._turns)
        turns = [*self._turns, question_of(self._chat, text, self._images, has_image=has_image)]
        answer = last_answer(self._chat, turns)
        print("" if self._is_streamed else answer.text, file=self._out)
        for notice in answer.notices:
            print(f"note: {notice}", file=self._out)
        if (picture := picture_of(answer)) is not None:
            print(f"picture: {save_picture(picture, Path(), 'drawn')}", file=self._out)
        self._turns = [*turns, Turn("assistant", answer.text)]
        self._images = ()


class AnswerPrinter(BaseStreamer):
    """Writes an answer while its ids come."""

    def __init__(self, model: VisionLanguageModel, out: TextIO) -> None:
        self._text = AnswerText(model.tokenizer.decode, model.prompt_format)
        self._out = out
        self._ids: list[int] | None = None
        self._shown = ""

    def put(self, value: Tensor) -> None:
        """The prompt's ids first, then each id of the answer."""
        if self._ids is None:
            self._ids = []
            return
        self._ids += value.flatten().tolist()
        self._text.update(self._ids)
        self._show()

    def end(self) -> None:
        """No more ids."""
        self._text.finish()
        self._show()

    def _show(self) -> None:
        text = self._text.text
        if text.startswith(self._shown):
            print(text[len(self._shown) :], end="", file=self._out, flush=True)
        else:  # the end of a text may change what was before it, as where a role name is cut off
            print(f"\n{text}", end="", file=self._out, flush=True)
        self._shown = text


class GeneratingModel:
    """The model as a ChatModel that answers through `generate`, in the thread that asks.

    A stream is one answer, the final one. If there is an `out`, the text is written to it while it comes. The model is
    for inference alone from then on.
    """

    def __init__(
        self, model: VisionLanguageModel, *, num_beams: int = 1, prompt_lookup: int = 0, out: TextIO | None = None
    ) -> None:
        pack_weights(model)
        self._model = model
        self._num_beams = num_beams
        self._prompt_lookup = prompt_lookup
        self._out = out

    @property
    def info(self) -> ModelInfo:
        """Facts about the model."""
        return self._model.info

    def neutralise(self, text: str) -> str:
        """User text with every control token of the model broken."""
        return self._model.prompt_format.neutralise(text)

    def stream(self, turns: Sequence[Turn], sampling: Sampling) -> Iterator[Answer]:
        """The next answer. Whole oldest turns go where the conversation must be shorter, and a notice says so."""
        model, sampling = self._model, check(sampling)
        check_turns(model, turns)
        prompt = fit_prompt(model, turns, sampling.max_new_tokens)
        kept, _ = drop_oldest(turns, prompt.dropped_turns)
        (found,) = generate(
            model,
            [kept],
            replace(sampling, max_new_tokens=prompt.max_new_tokens),
            num_beams=self._num_beams,
            prompt_lookup=self._prompt_lookup,
            streamer=AnswerPrinter(model, self._out) if self._out else None,
        )
        has_ended = found.ids[-1] in model.eos_token_ids or model.prompt_format.stopped(
            model.tokenizer.decode(found.ids)
        )
        cut = () if has_ended or prompt.length_notice is None else (prompt.length_notice,)
        yield Answer(
            text=found.text,
            finish_reason="stop" if has_ended else "length",
            dropped_turns=prompt.dropped_turns,
            notices=(*prompt.notices, *cut),
        )


def question_of(chat: ChatModel, text: str, images: tuple[Image.Image, ...], *, has_image: bool) -> Question:
    """A question as the page would ask it; `has_image` counts earlier turns. Raises RequestError if it can't be."""
    check_question(text, chat.info, num_images=len(images), has_image=has_image)
    return Question("user", chat.neutralise(text), images, usual_wishes(chat.info))


def last_answer(chat: ChatModel, turns: Sequence[Turn]) -> Answer:
    """The complete answer by the model's default settings, drawn picture included."""
    *_, answer = chat.stream(turns, chat.info.sampling)
    return answer


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


def answer_file(
    model: VisionLanguageModel,
    path: Path,
    *,
    num_beams: int = 1,
    prompt_lookup: int = 0,
    out: TextIO = sys.stdout,
) -> None:
    """Answer every line {"question": …, "image": …} of a file; the same lines come out with an "answer".

    Images are found from the file's own folder. A picture that is drawn (`--gen`) is saved there, and "picture" names
    it; notices go to stderr. Raises MiniVLMError with the line's number.
    """
    chat = with_aids(GeneratingModel(model, num_beams=num_beams, prompt_lookup=prompt_lookup))
    for number, record in read_questions(path):
        where = f"{path}, line {number}"
        try:
            images = (open_picture(path.parent / record["image"]).image,) if record.get("image") else ()
            answer = last_answer(chat, [question_of(chat, record["question"], images, has_image=bool(images))])
            result = {**record, "answer": answer.text}
            if (picture := picture_of(answer)) is not None:
                result["picture"] = save_picture(picture, path.parent, f"{path.stem}-line{number}").name
        except MiniVLMError as error:
            raise type(error)(f"{where}: {error}") from error
        for notice in answer.notices:
            print(f"note: {where}: {notice}", file=sys.stderr)
        print(json.dumps(result, ensure_ascii=False), file=out, flush=True)


def read_questions(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line numbers and what the lines hold. Raises RequestError for a line that is no question or lacks its image."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or f"it is no text in UTF-8: {error}"
        raise RequestError(f"{path} can't be read ({reason}).") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            raise RequestError(f"{path}, line {number}: not JSON ({error}).") from error
        is_question = isinstance(record, dict) and isinstance(record.get("question"), str)
        if not is_question or not isinstance(record.get("image", ""), str):
            raise RequestError(
                f'{path}, line {number}: write {{"question": "…", "image": "FILE"}}; image may be missing.'
            )
        if record.get("image") and not (path.parent / record["image"]).is_file():
            raise RequestError(f"{path}, line {number}: there is no file {path.parent / record['image']}.")
        yield number, record
