"""What the page of one visitor holds: the conversation, and beside it what only a page needs."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from app.chat.answering import Rival
from app.chat.exchange import Exchange, IllustratedAnswer, WantedExtras
from app.chat.pictures import Picture, open_picture
from app.chat.session import ChatSession
from engine.chat_model import ChatModel
from models.conversation import Sampling
from models.errors import Unwatched
from models.grounding import Box
from models.routing_trace import RoutingTrace

# Under this lock a question is accepted, and an edit begins: an edit that came in between would be forgotten. It is one
# lock for all pages because gradio copies a state for every visitor, and a lock can't be copied.
_ACCEPTING = threading.Lock()


@dataclass
class RivalChoice:
    """Who answers beside the page's model, by its name in the library, and with which settings other than its own."""

    model: str = ""  # empty for the default model
    values: dict[str, Any] = field(default_factory=dict)  # as typed, by the setting's name


@dataclass(eq=False)
class PageState:
    """One visitor's conversation, with the edit, the attachments and the routing views that are open."""

    session: ChatSession = field(default_factory=ChatSession)
    model: str = ""  # the name in the library of the one that answers the next question; empty for the default
    rival: RivalChoice | None = None  # while two answers are compared
    editing: int | None = None  # the exchange that the next question replaces
    draft: dict[str, Any] | None = None  # the text box's content before the edit began
    attached: dict[str, Picture] = field(default_factory=dict)  # by file, what the next question brings along
    refused_meanwhile: bool = False  # whether the page says that an answer is still being written
    routing: dict[Exchange, RoutingTrace] = field(default_factory=dict)  # of the answers whose experts are shown
    shown: set[Exchange] = field(default_factory=set)  # whose bubbles are kept: messages.py
    drawn: int = 0  # characters of HTML that are kept of it, as it was shown last
    sent: set[str] = field(default_factory=set)  # names of bubbles that the page has: conversation_component.py

    def __getstate__(self) -> dict[str, Any]:
        """For a copy or a file: routing views and bubbles are made again when they are asked for."""
        return {**self.__dict__, "routing": {}, "shown": set()}

    @property
    def is_answering(self) -> bool:
        return self.session.is_answering

    @property
    def more_answers(self) -> int:
        """How many answers are being written beside the first, as one listener serves both answers of a pair."""
        return max(0, self.session.num_answering - 1)

    def sizes(self) -> dict[str, int]:
        """The bytes of each picture, shared ones under one name, and of the texts."""
        exchanges = self.session.all_exchanges()
        pictures = [picture for exchange in exchanges for picture in exchange.pictures]
        pictures += list(self.attached.values())
        sizes = {f"picture {id(picture.image)}": picture.num_bytes for picture in pictures}
        drafted = len(self.draft["text"]) + sum(map(len, self.draft["files"])) if self.draft else 0
        drawn = [one.answer.drawn for one in exchanges if isinstance(one.answer, IllustratedAnswer)]
        sizes |= {f"drawn {id(picture.image)}": picture.num_bytes for picture in drawn if picture is not None}
        text = sum(len(exchange.question) + len(exchange.text) for exchange in exchanges) + drafted
        return {**sizes, f"texts of {self.session.key}": 4 * text + self.drawn}

    def forget(self) -> None:
        """Let go of the conversation and all that came with it."""
        self.reset()
        self.drawn = 0
        self.shown = set()
        self.attached.clear()
        self.draft = None

    @property
    def picture(self) -> Picture | None:
        """The image that the next question is about, unless it brings its own."""
        return self.session.picture_before(len(self.session.exchanges) if self.editing is None else self.editing)

    def pictures(self) -> dict[str, Picture]:
        """The pictures by their keys: attached, asked about, or drawn by the model."""
        exchanges = self.session.exchanges
        asked = (picture for exchange in exchanges for picture in exchange.pictures)
        answers = (one.answer for exchange in exchanges for one in exchange.answers)
        drawn = (one.drawn for one in answers if isinstance(one, IllustratedAnswer))
        return {one.key: one for one in (*drawn, *asked, *self.attached.values()) if one is not None}

    def attach(self, paths: Sequence[str]) -> list[Picture]:
        """The pictures in these files, which are all that the next question brings along; each is read once.

        Raises ImageError for a file that is not a usable picture; the others stay attached.
        """
        self.attached = {path: picture for path, picture in self.attached.items() if path in paths}
        for path in paths:
            if path not in self.attached:
                self.attached[path] = open_picture(path)
        return [self.attached[path] for path in paths]

    def ask(
        self,
        model: ChatModel,
        text: str,
        pictures: Sequence[Picture],
        sampling: Sampling,
        extras: WantedExtras,
        *,
        box: Box | None = None,
        rival: Rival | None = None,
    ) -> Iterator[Exchange]:
        """As `ChatSession.begin`, in place of the question that is being edited, if one is. Raises RequestError.

        Returns an iterator that follows the answer; closing it does not stop the answer.
        """
        with _ACCEPTING:
            self.session.begin(
                model, text, pictures, sampling, box=box, extras=extras, replacing=self.editing, rival=rival
            )
            self.editing = None
        self.routing.clear()  # a view is large, and would be drawn again with every word of the new answer
        return self.session.watch()

    def retry(
        self, model: ChatModel, sampling: Sampling, extras: WantedExtras, *, rival: Rival | None = None
    ) -> Iterator[Exchange]:
        """As `ChatSession.begin_again`, watched as in `ask`; gives up an edit that has begun. Raises RequestError."""
        with _ACCEPTING:
            self.session.begin_again(model, sampling, extras=extras, rival=rival)
            self.editing = None
        self.routing.clear()
        return self.session.watch()

    def undo(self) -> Exchange | None:
        """As `ChatSession.undo`; an edit that has begun is given up."""
        self.editing = None
        exchange = self.session.undo()
        for one in exchange.answers if exchange is not None else ():
            self.routing.pop(one, None)
        return exchange

    def edit(self, index: int) -> Exchange:
        """Let the next question replace exchange `index` and all after it. Nothing is lost before it is asked."""
        with _ACCEPTING:
            self.session.check_free()
            exchange = self.session.exchange(index)
            self.editing = index
            return exchange

    def switch(self, index: int, step: int) -> None:
        """As `ChatSession.switch`; an edit that has begun is given up. Raises RequestError."""
        with _ACCEPTING:
            self.session.switch(index, step)
            self.editing = None

    def cancel_edit(self) -> dict[str, Any] | None:
        """Leave the conversation as it is; what was in the text box before the edit, if there was something."""
        self.editing = None
        draft, self.draft = self.draft, None
        return draft

    def reset(self) -> None:
        """A new conversation."""
        self.session.reset()
        self.editing = None
        self.routing.clear()

    def restore(self, exchanges: Sequence[Exchange]) -> None:
        """A conversation that was kept elsewhere, in place of this one. Raises StillAnswering."""
        with _ACCEPTING:
            self.session.restore(exchanges)
            self.editing = None
        self.routing.clear()

    def stop(self) -> None:
        """End the running answer and free the model."""
        self.session.stop()

    def abandon(self, seconds: float) -> None:
        """End the running answer, and say why: no page has shown it for so long."""
        why = f"No page had shown this answer for {seconds:g} seconds, so it was stopped."
        self.session.fail(Unwatched(f"{why} Press Retry to have it written anew."))
