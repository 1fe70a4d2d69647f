"""Answers without the page: a chat in the terminal, and a file of questions.

They go through transformers' `generate`, which has beam search and prompt lookup; the page's engine has neither.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

from torch import Tensor
from transformers.generation.streamers import BaseStreamer

from app.decoding import AnswerText
from app.engine_prompt import check_turns, drop_oldest, fit_prompt
from app.images import open_picture
from app.questions import check_question
from models.conversation import Turn
from models.errors import MiniVLMError, RequestError
from models.generation import generate
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
        self._model = model
        self._options = {"num_beams": num_beams, "prompt_lookup": prompt_lookup}
        self._read = read
        self._out = out
        self._turns: list[Turn] = []
        self._images = () if image is None else (open_picture(image).image,)

    def run(self) -> None:
        """Questions and answers until /quit or the end of the input."""
        print(f"{self._model.info.name}. {HELP}", file=self._out)
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
        elif command == "/new":
            self._turns = []
        elif command.startswith("/"):
            print(HELP, file=self._out)
        elif line:
            self._ask(line)

    def _ask(self, text: str) -> None:
        has_image = bool(self._images) or any(turn.images for turn in self._turns)
        check_question(text, self._model.info, num_images=len(self._images), has_image=has_image)
        turns = [*self._turns, Turn("user", self._model.prompt_format.neutralise(text), self._images)]
        # With beams there is nothing to show before the end.
        printer = None if self._options["num_beams"] > 1 else AnswerPrinter(self._model, self._out)
        answer, notices = answer_turns(self._model, turns, streamer=printer, **self._options)
        if printer is None:
            print(answer, end="", file=self._out)
        print(file=self._out)
        for notice in notices:
            print(f"note: {notice}", file=self._out)
        self._turns = [*turns, Turn("assistant", answer)]
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


def answer_turns(
    model: VisionLanguageModel, turns: list[Turn], *, streamer: BaseStreamer | None = None, **options: int
) -> tuple[str, tuple[str, ...]]:
    """The next answer by the model's default settings, and notices; whole oldest turns go where it must be shorter."""
    check_turns(model, turns)
    prompt = fit_prompt(model, turns, model.info.sampling.max_new_tokens)
    kept, _ = drop_oldest(turns, prompt.dropped_turns)
    sampling = replace(model.info.sampling, max_new_tokens=prompt.max_new_tokens)
    return generate(model, [kept], sampling, streamer=streamer, **options)[0].text, prompt.notices


def answer_file(
    model: VisionLanguageModel,
    path: Path,
    *,
    num_beams: int = 1,
    prompt_lookup: int = 0,
    out: TextIO = sys.stdout,
) -> None:
    """Answer every line {"question": …, "image": …} of a file; the same lines come out with an "answer".

    Images are found from the file's own folder. Raises MiniVLMError with the line's number.
    """
    for number, record in read_questions(path):
        try:
            images = (open_picture(path.parent / record["image"]).image,) if record.get("image") else ()
            check_question(record["question"], model.info, num_images=len(images), has_image=bool(images))
            turn = Turn("user", model.prompt_format.neutralise(record["question"]), images)
            answer, _ = answer_turns(model, [turn], num_beams=num_beams, prompt_lookup=prompt_lookup)
        except MiniVLMError as error:
            raise type(error)(f"{path}, line {number}: {error}") from error
        print(json.dumps({**record, "answer": answer}, ensure_ascii=False), file=out, flush=True)


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
