"""A file of questions: one JSON object a line, each with a `question` and, if it is about one, an `image`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.chat.exchange import Question, usual_extras
from app.chat.normaliser import normalise
from app.chat.picture_files import read_picture
from app.chat.pictures import Picture
from app.chat.questions import Wording, asked_phrase, check_question
from engine.chat_model import ChatModel
from models.errors import RequestError

OWN_KEYS = ("answer", "regions", "model", "picture", "error")  # of results; a line's own are replaced
FORM = 'write {"question": "…", "image": "FILE"}; image may be missing'
WORDING = Wording(
    no_text='"question" is empty.',
    add_image='give this line an "image"',
    give_box="put its corners into the question, as {<x0><y0><x1><y1>} from 0 to 100",
    write_after='"question" must go on after',
    fewer_images="this line has {num}.",
)


@dataclass(frozen=True)
class Line:
    """One line that is not empty: its number in the file, from 1, and what it says; `error` where that is no JSON."""

    number: int
    record: dict[str, Any]
    error: str = ""

    @property
    def asked(self) -> dict[str, Any]:
        """The record without what is put there with an answer."""
        return {key: value for key, value in self.record.items() if key not in OWN_KEYS}


@dataclass(frozen=True)
class PreparedLine:
    """A line as the model is asked it, with what its answer is read by."""

    question: Question
    picture: Picture | None
    phrase: str
    model: str


def read_lines(path: Path) -> Iterator[Line]:
    """The lines of a file, one after the other. Raises RequestError where the file itself can't be read."""
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield _line(number, line)
    except OSError as error:
        raise RequestError(f"{path} can't be read ({error.strerror or error}).") from error


def _line(number: int, line: bytes) -> Line:
    try:
        record = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
    except UnicodeDecodeError:
        return Line(number, {"line": number}, "not a text in UTF-8")
    except (ValueError, RecursionError) as error:
        return Line(number, {"line": number}, f"not JSON ({error})")
    if not isinstance(record, dict):
        return Line(number, {"line": number}, FORM)
    return Line(number, record)


def prepare(line: Line, folder: Path, chat: ChatModel) -> PreparedLine:
    """A line as a question to `chat`; its image is looked for from `folder`. Raises MiniVLMError, in a file's words."""
    if line.error:
        raise RequestError(f"{line.error}.")
    text, name = line.record.get("question"), line.record.get("image") or ""
    if not isinstance(text, str) or not isinstance(name, str):
        raise RequestError(f"{FORM}.")
    info = chat.info
    text = normalise(text, info.tasks)
    check_question(text, info, num_images=bool(name), has_image=bool(name), wording=WORDING)
    picture = read_picture(folder / name) if name else None
    images = (picture.image,) if picture else ()
    question = Question("user", chat.neutralise(text), images, usual_extras(info))
    return PreparedLine(question, picture, asked_phrase(text, info.tasks), info.name)
