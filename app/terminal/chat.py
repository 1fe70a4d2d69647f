"""A chat in the terminal: questions and commands come in, answers go out as they are written.

The conversation is a ChatSession, as on the page, so that what is saved here opens there.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Protocol, TextIO

from app.chat.exchange import Exchange, now
from app.chat.normaliser import normalise
from app.chat.picture_files import picture_of, read_picture, save_picture
from app.chat.pictures import Picture
from app.chat.questions import Wording, check_question, question_part, task_of
from app.chat.saved import chat_json
from app.chat.session import ChatSession
from app.terminal.commands import SHORT_HELP, help_lines, task_names
from engine import first_answer
from engine.chat_model import ChatModel
from models.command_line import did_you_mean
from models.errors import MiniVLMError, RequestError
from models.tasks import Task

WORDING = Wording(
    add_image="add one first, with /image FILE",
    give_box="write its corners at the end, four numbers from 0 to 100",
    fewer_images="{num} were given.",
)


class SwitchableModels(Protocol):
    """The model that answers now, and others that may take its place."""

    @property
    def chat(self) -> ChatModel:
        """The one that answers."""

    def names(self) -> list[str]:
        """What `switch` knows."""

    def switch(self, name: str) -> None:
        """Unload the model and load another. Raises MiniVLMError; the model before answers on then."""


class Terminal:
    """A conversation read from one stream and written to another."""

    def __init__(
        self,
        models: SwitchableModels,
        *,
        image: Path | None = None,
        read: Callable[[str], str] = input,
        out: TextIO | None = None,
    ) -> None:
        self._models = models
        self._read = read
        self._out = out or sys.stdout
        self._session = ChatSession()
        self._speed: list[str] = []  # what the log says of it, to be shown behind an answer and not in the middle of it
        self._task: Task | None = None
        self._pictures: tuple[Picture, ...] = () if image is None else (read_picture(image),)

    def run(self) -> None:
        """Questions and answers until /quit or the end of the input; Ctrl-C stops an answer, or empties the line."""
        with collected_speed() as self._speed:
            self._converse()

    def _converse(self) -> None:
        self._say(f"{self._models.chat.info.name}. {SHORT_HELP}")
        while True:
            try:
                line = self._read(f"{self._task.identifier} > ".lstrip() if self._task else "> ").strip()
                if line == "/quit":
                    return
                self._obey(line)
            except EOFError:
                return self._say("")
            except KeyboardInterrupt:
                self._session.stop()
                self._say("")
            except MiniVLMError as error:
                self._say(f"error: {error}")

    def _say(self, text: str, end: str = "\n") -> None:
        print(text, end=end, file=self._out, flush=True)

    def _obey(self, line: str) -> None:
        command, _, rest = line.partition(" ")
        obey = {
            "/image": self._image,
            "/task": self._choose_task,
            "/model": self._switch,
            "/new": self._new,
            "/save": self._save,
            "/help": self._help,
        }
        if command in obey:
            obey[command](rest.strip())
        elif command.startswith("/"):
            raise RequestError(
                f"There is no command {command}.{did_you_mean(command, [*obey, '/quit'])} /help lists all."
            )
        elif line or (self._task and question_part(self._task.prompt, self._models.chat.info.tasks)):
            self._ask(line)

    def _image(self, name: str) -> None:
        if not name:
            raise RequestError("Name a file: /image FILE")
        self._pictures = (read_picture(Path(name).expanduser()),)
        if self._session.exchanges and self._models.chat.info.one_image_per_chat:
            self._say("A new image begins a new chat.")

    def _choose_task(self, name: str) -> None:
        names = task_names(self._models.chat.info.tasks)
        if not names:
            raise RequestError("This model has no tasks; just ask.")
        if not name:
            for known, task in names.items():
                self._say(f"{known:<12} {task.hint}")
            return
        if name.lower() not in names:
            raise RequestError(f"There is no task {name!r}.{did_you_mean(name.lower(), names)} /task lists all.")
        task = names[name.lower()]
        self._task = task if task.identifier else None
        self._say(task.hint)

    def _switch(self, name: str) -> None:
        if not name:
            return self._say(self._models.chat.info.name)
        self._models.switch(name)
        self._fit_conversation()
        self._say(f"{self._models.chat.info.name} answers from here on.")

    def _fit_conversation(self) -> None:
        """What was said before holds no control token of the new model; a task that it lacks is no longer chosen."""
        chat = self._models.chat
        if self._task and self._task not in chat.info.tasks:
            self._task = None
        if any(len(one.pictures) > chat.info.max_images_per_turn for one in self._session.exchanges):
            self._say("A new chat begins, as this model takes fewer images at once.")
            return self._new("")
        for exchange in self._session.exchanges:
            exchange.question = chat.neutralise(exchange.question)
            if exchange.answer is not None:
                exchange.answer = replace(exchange.answer, text=chat.neutralise(exchange.answer.text))

    def _new(self, _: str) -> None:
        self._session.reset()

    def _save(self, name: str) -> None:
        if not self._session.exchanges:
            raise RequestError("There is nothing to save yet: ask something first.")
        moment = now()
        path = Path(name or f"chat_{moment[:19].replace(':', '-')}.json").expanduser()
        try:
            with path.open("x", encoding="utf-8") as file:
                file.write(chat_json(self._session.exchanges, saved=moment))
        except FileExistsError as error:
            raise RequestError(f"{path} exists; choose another name.") from error
        except OSError as error:
            raise RequestError(f"{path} can't be written ({error.strerror or error}).") from error
        self._say(f"saved: {path}")

    def _help(self, _: str) -> None:
        for line in help_lines():
            self._say(line)

    def _ask(self, text: str) -> None:
        chat = self._models.chat
        tasks = chat.info.tasks
        if self._task and task_of(text, tasks) is None:
            text = f"{self._task.identifier} {text}" if text else self._task.prompt
        text = normalise(text, tasks)
        has_image = bool(self._pictures) or self._session.picture_of(len(self._session.exchanges) - 1) is not None
        check_question(text, chat.info, num_images=len(self._pictures), has_image=has_image, wording=WORDING)
        exchange = self._session.begin(chat, text, self._pictures)
        self._pictures = ()
        printer = AnswerPrinter(self._out)
        try:
            for shown in self._session.watch():
                printer.show(shown)
        except KeyboardInterrupt:
            self._session.stop()
            self._say(f"{exchange.text[printer.num_shown :]}\n(stopped)")
            return
        self._end(exchange)

    def _end(self, exchange: Exchange) -> None:
        self._say("")
        while self._speed:
            self._say(f"note: {self._speed.pop(0)}")
        answer = exchange.answer
        if exchange.error:
            self._say(f"error: {exchange.error}")
        elif answer is not None:
            for notice in answer.notices:
                self._say(f"note: {notice}")
            if (picture := picture_of(answer)) is not None:
                self._say(f"picture: {save_picture(picture, Path(), 'drawn')}")


@contextmanager
def collected_speed() -> Iterator[list[str]]:
    """The lines that the engine logs about how fast first answers were, as they come."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    before = first_answer.logger.level
    first_answer.logger.addHandler(handler)
    first_answer.logger.setLevel(logging.INFO)
    try:
        yield lines
    finally:
        first_answer.logger.removeHandler(handler)
        first_answer.logger.setLevel(before)


class AnswerPrinter:
    """Writes an answer while it grows."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._shown = ""

    @property
    def num_shown(self) -> int:
        """Characters that are on the screen."""
        return len(self._shown)

    def show(self, exchange: Exchange) -> None:
        """What is new; all of it where the text before has changed, as where a role's name is cut off at its end."""
        text = exchange.text
        start = len(self._shown) if text.startswith(self._shown) else 0
        print("\n" * (start == 0 and bool(self._shown)) + text[start:], end="", file=self._out, flush=True)
        self._shown = text
