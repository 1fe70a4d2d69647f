"""ChatSession: the only conversation state. What the page shows is drawn from it and never read back."""

from __future__ import annotations

import logging
import random
import threading
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from app.aids import Question, Wishes, usual_wishes
from app.chat_model import ChatModel
from app.images import Picture, open_picture
from app.live_answer import LiveAnswer
from app.questions import check_question, with_box
from models.conversation import Answer, Sampling, Turn
from models.errors import MiniVLMError, RequestError
from models.grounding import Box
from models.routing_trace import RoutingTrace

logger = logging.getLogger(__name__)

# Held from finding that no answer is being written to what follows from it: of two questions sent at once only one may
# find that. One lock for all conversations, as the page copies them but can't copy locks; held for about a millisecond.
_STARTING = threading.Lock()


@dataclass(eq=False)
class Exchange:
    """A question with its answer so far. `error` says in one line why there is no more of it."""

    question: str
    pictures: tuple[Picture, ...]
    sampling: Sampling
    answer: Answer | None = None
    error: str = ""
    wishes: Wishes = field(default_factory=Wishes)
    routing: RoutingTrace | None = None  # while the user looks at it
    begins_anew: bool = False  # the model does not see what was said before

    @property
    def is_running(self) -> bool:
        return not self.error and (self.answer is None or self.answer.finish_reason is None)

    @property
    def text(self) -> str:
        return self.answer.text if self.answer else ""


class StillAnswering(RequestError):
    """Refused because an answer is being written; outdated as soon as that has ended."""


class ChatSession:
    """The conversation of one visitor: ask, stop, retry, undo, edit, reset."""

    def __init__(self) -> None:
        self.exchanges: list[Exchange] = []
        self.key = ""  # a name of its own from the first question on
        self.editing: int | None = None  # the exchange that the next question replaces
        self.draft: dict[str, Any] | None = None  # the text box's content before an edit began
        self.attached: dict[str, Picture] = {}  # by file, what the next question brings along
        self.refused_meanwhile = False  # whether the page says that an answer is still being written
        self.has_experts = False  # whether the model can tell where its tokens went
        self._live: LiveAnswer | None = None

    @property
    def is_answering(self) -> bool:
        return self._live is not None and self._live.is_running

    @property
    def picture(self) -> Picture | None:
        """The image that the next question is about, unless it brings its own."""
        return self.picture_before(self._next_index)

    def attach(self, paths: Sequence[str]) -> list[Picture]:
        """The pictures in these files, which are all that the next question brings along; each is read once.

        Raises ImageError for a file that is not a usable picture; the others stay attached.
        """
        self.attached = {path: picture for path, picture in self.attached.items() if path in paths}
        for path in paths:
            if path not in self.attached:
                self.attached[path] = open_picture(path)
        return [self.attached[path] for path in paths]

    def picture_before(self, index: int) -> Picture | None:
        """The last image of the exchanges before `index`."""
        return next((turn.pictures[-1] for turn in reversed(self.exchanges[:index]) if turn.pictures), None)

    def picture_of(self, index: int) -> Picture | None:
        """The image that exchange `index` is about: its own, or the last before it."""
        return self.picture_before(index + 1)

    @property
    def _next_index(self) -> int:
        return len(self.exchanges) if self.editing is None else self.editing

    def turns(self, upto: int) -> list[Turn]:
        """The conversation as the model sees it when it answers exchange `upto`.

        Questions that got no answer are left out; their images go to the next question, as nothing else shows them.
        Nothing from before an exchange that `begins_anew` is there.
        """
        first = max((index for index in range(upto + 1) if self.exchanges[index].begins_anew), default=0)
        turns: list[Turn] = []
        waiting: tuple[Picture, ...] = ()
        for index, exchange in enumerate(self.exchanges[first : upto + 1], start=first):
            if index < upto and not exchange.text:
                waiting = exchange.pictures or waiting
                continue
            pictures, waiting = exchange.pictures or waiting, ()
            images = tuple(picture.image for picture in pictures)
            turns.append(Question("user", exchange.question, images, exchange.wishes))
            if index < upto:
                turns.append(Turn("assistant", exchange.text))
        return turns

    def ask(
        self,
        model: ChatModel,
        text: str,
        pictures: Sequence[Picture] = (),
        sampling: Sampling | None = None,
        *,
        box: Box | None = None,
        wishes: Wishes | None = None,
    ) -> Iterator[Exchange]:
        """Add a question and answer it; yields the exchange whenever its answer has grown.

        A question that can't be asked raises RequestError here, before anything has changed. Later errors are kept in
        `Exchange.error`. Closing the iterator stops the answer.
        """
        with _STARTING:
            self._check_free()
            text = with_box(text.strip(), box, model.info.tasks)
            has_image = bool(pictures) or self.picture is not None
            check_question(text, model.info, num_images=len(pictures), has_image=has_image)
            exchange = Exchange(model.neutralise(text), tuple(pictures), with_seed(sampling or model.info.sampling))
            exchange.wishes = wishes or usual_wishes(model.info)
            exchange.begins_anew = bool(pictures) and model.info.one_image_per_chat and self._next_index > 0
            self.key = self.key or uuid.uuid4().hex
            del self.exchanges[self._next_index :]
            self.editing = None
            self.exchanges.append(exchange)
            return self._answer(model, exchange)

    def retry(
        self, model: ChatModel, sampling: Sampling | None = None, *, wishes: Wishes | None = None
    ) -> Iterator[Exchange]:
        """Answer the last question again. The old answer comes back if the new one has no text."""
        with _STARTING:
            self._check_free()
            if not self.exchanges:
                raise RequestError("There is no question to answer again.")
            old = self.exchanges[-1]
            exchange = Exchange(old.question, old.pictures, with_seed(sampling or old.sampling))
            exchange.wishes, exchange.begins_anew = wishes or old.wishes, old.begins_anew
            self.exchanges[-1] = exchange
            self.editing = None
            return self._answer(model, exchange, fallback=old)

    def undo(self) -> Exchange | None:
        """Take the last question and its answer back; None if there is none."""
        self.stop()
        self.editing = None
        return self.exchanges.pop() if self.exchanges else None

    def edit(self, index: int) -> Exchange:
        """Let the next question replace exchange `index` and all after it. Nothing is lost before it is asked."""
        with _STARTING:
            self._check_free()
            if not 0 <= index < len(self.exchanges):
                raise RequestError("That question is no longer there.")
            self.editing = index
            return self.exchanges[index]

    def cancel_edit(self) -> dict[str, Any] | None:
        """Leave the conversation as it is; what was in the text box before the edit, if there was something."""
        self.editing = None
        draft, self.draft = self.draft, None
        return draft

    def reset(self) -> None:
        """A new conversation."""
        self.stop()
        self.exchanges.clear()
        self.editing = None

    def stop(self) -> None:
        """End the running answer and free the model; what was said so far stays."""
        if self._live is not None:
            self._live.stop()

    def _check_free(self) -> None:
        if self.is_answering:
            raise StillAnswering("An answer is still being written. Stop it first, or wait.")

    def _answer(self, model: ChatModel, exchange: Exchange, fallback: Exchange | None = None) -> Iterator[Exchange]:
        """Starts at once, so that a second question is refused even before the first update is read."""
        self.has_experts = model.info.has_experts
        for shown in self.exchanges:
            shown.routing = None  # it is large, and is drawn again with every word of the new answer
        live = LiveAnswer(model, self.turns(len(self.exchanges) - 1), exchange.sampling)
        self._live = live
        return self._follow(live, exchange, fallback)

    def _follow(self, live: LiveAnswer, exchange: Exchange, fallback: Exchange | None) -> Iterator[Exchange]:
        try:
            for answer in live.updates():
                exchange.answer = answer
                yield exchange
        except MiniVLMError as error:
            exchange.error = str(error)
        except Exception:
            number = uuid.uuid4().hex[:8]
            logger.exception("Answer failed (%s)", number)
            exchange.error = f"Something went wrong in the program. Try again; its log has the details under {number}."
        finally:
            live.stop()
            if exchange.is_running:
                exchange.answer = replace(live.latest, finish_reason="cancelled")
            if fallback is not None and not exchange.text:
                self._restore(exchange, fallback)
        yield exchange

    def _restore(self, exchange: Exchange, old: Exchange) -> None:
        if old.text and self.exchanges and self.exchanges[-1] is exchange:
            exchange.answer, exchange.sampling, exchange.wishes = old.answer, old.sampling, old.wishes


def with_seed(sampling: Sampling) -> Sampling:
    """The same settings with a seed, so that every answer can be repeated."""
    return sampling if sampling.seed is not None else replace(sampling, seed=random.randrange(2**31))
