"""ChatSession: a conversation and nothing else. What a page shows is drawn from it and never read back."""

from __future__ import annotations

import logging
import random
import secrets
import threading
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

from app.chat.exchange import Branches, Exchange, Question, WantedExtras, now, usual_extras
from app.chat.live_answer import LiveAnswer
from app.chat.normaliser import normalise
from app.chat.pictures import Picture
from app.chat.questions import asked_phrase, check_question, with_box
from engine.chat_model import ChatModel
from models.conversation import Answer, Sampling, Turn
from models.errors import MiniVLMError, RequestError
from models.grounding import Box

logger = logging.getLogger(__name__)

# Under this lock it is checked that no answer is being written, and the next one is started: of two questions sent at
# the same instant one is then refused. It is one lock for all conversations because gradio copies a session for every
# visitor, and a lock can't be copied. It is held for about a millisecond.
_STARTING = threading.Lock()


class StillAnswering(RequestError):
    """Refused because an answer is being written; outdated as soon as that has ended."""


class ChatSession:
    """One conversation, whoever holds it: ask, stop, retry, undo, reset."""

    def __init__(self) -> None:
        self.exchanges: list[Exchange] = []
        self.key = ""  # from the first question on; whoever knows it may see the conversation, so it can't be guessed
        self._live: LiveAnswer | None = None
        self._answered: Exchange | None = None  # what `_live` answers

    def __getstate__(self) -> dict[str, object]:
        """For a copy or a file: without the answer that is being written, which is a thread's."""
        return {**self.__dict__, "_live": None, "_answered": None}

    @property
    def is_answering(self) -> bool:
        return self._live is not None and self._live.is_running

    def picture_before(self, index: int) -> Picture | None:
        """The last image of the exchanges before `index`."""
        return next((turn.pictures[-1] for turn in reversed(self.exchanges[:index]) if turn.pictures), None)

    def picture_of(self, index: int) -> Picture | None:
        """The image that exchange `index` is about: its own, or the last before it."""
        return self.picture_before(index + 1)

    def turns(self, upto: int, model: ChatModel | None = None) -> list[Turn]:
        """The conversation as the model sees it when it answers exchange `upto`.

        Questions that got no answer are left out; their images go to the next question, as nothing else shows them.
        Nothing before `first_seen` is there; what other models said is made harmless for this one.
        """
        first = self.first_seen(upto, model)
        turns: list[Turn] = []
        waiting: tuple[Picture, ...] = ()
        for index, exchange in enumerate(self.exchanges[first : upto + 1], start=first):
            if index < upto and not exchange.text:
                waiting = exchange.pictures or waiting
                continue
            pictures, waiting = exchange.pictures or waiting, ()
            texts = [exchange.question, exchange.text]
            if model is not None and exchange.model != model.info.name:
                texts = [model.neutralise(text) for text in texts]
            turns.append(Question("user", texts[0], tuple(picture.image for picture in pictures), exchange.extras))
            if index < upto:
                turns.append(Turn("assistant", texts[1]))
        return turns

    def first_seen(self, upto: int, model: ChatModel | None = None) -> int:
        """What the model sees first: what `begins_anew`, or, where it takes one image per chat, has the last."""
        one_image = model is not None and model.info.one_image_per_chat
        seen = enumerate(self.exchanges[: upto + 1])
        return max((index for index, one in seen if one.begins_anew or (one_image and one.pictures)), default=0)

    def ask(
        self,
        model: ChatModel,
        text: str,
        pictures: Sequence[Picture] = (),
        sampling: Sampling | None = None,
        *,
        box: Box | None = None,
        extras: WantedExtras | None = None,
        replacing: int | None = None,
    ) -> Iterator[Exchange]:
        """As `begin`; yields the exchange whenever its answer has grown. Closing the iterator stops the answer."""
        self.begin(model, text, pictures, sampling, box=box, extras=extras, replacing=replacing)
        return self._until_closed()

    def begin(
        self,
        model: ChatModel,
        text: str,
        pictures: Sequence[Picture] = (),
        sampling: Sampling | None = None,
        *,
        box: Box | None = None,
        extras: WantedExtras | None = None,
        replacing: int | None = None,
    ) -> Exchange:
        """Add a question and let it be answered, whether or not somebody watches.

        `replacing`: the exchange that makes way for the question, with all after it, once the question is accepted;
        `switch` brings them back.

        A question that can't be asked raises RequestError here, before anything has changed. Later errors are kept in
        `Exchange.error`.
        """
        with _STARTING:
            self.check_free()
            if replacing is not None:
                self.exchange(replacing)  # raises if it is not there
            index = len(self.exchanges) if replacing is None else replacing
            text = with_box(normalise(text, model.info.tasks), box, model.info.tasks)
            has_image = bool(pictures) or self.picture_before(index) is not None
            check_question(text, model.info, num_images=len(pictures), has_image=has_image)
            exchange = Exchange(model.neutralise(text), tuple(pictures), with_seed(sampling or model.info.sampling))
            exchange.extras = extras or usual_extras(model.info)
            exchange.phrase = asked_phrase(exchange.question, model.info.tasks)
            exchange.model, exchange.asked = model.info.name, now()
            exchange.begins_anew = bool(pictures) and model.info.one_image_per_chat and index > 0
            self.key = self.key or secrets.token_urlsafe(24)
            self._put(exchange, index)
            return self._answer(model, exchange)

    def retry(
        self, model: ChatModel, sampling: Sampling | None = None, *, extras: WantedExtras | None = None
    ) -> Iterator[Exchange]:
        """As `begin_again`; yields and closes as `ask`."""
        self.begin_again(model, sampling, extras=extras)
        return self._until_closed()

    def begin_again(
        self, model: ChatModel, sampling: Sampling | None = None, *, extras: WantedExtras | None = None
    ) -> Exchange:
        """Answer the last question again. The old answer comes back if the new one has no text."""
        with _STARTING:
            self.check_free()
            if not self.exchanges:
                raise RequestError("There is no question to answer again.")
            old = self.exchanges[-1]
            exchange = Exchange(old.question, old.pictures, with_seed(sampling or old.sampling))
            exchange.extras, exchange.begins_anew = extras or old.extras, old.begins_anew
            exchange.branches = old.branches
            exchange.phrase, exchange.model, exchange.asked = old.phrase, model.info.name, now()
            self.exchanges[-1] = exchange
            return self._answer(model, exchange, old)

    def watch(self) -> Iterator[Exchange]:
        """The exchange that is being answered whenever its answer has grown, and once more when it has ended.

        Any number of readers may watch; closing the iterator does not stop the answer.
        """
        live, exchange = self._live, self._answered
        if live is None or exchange is None:
            return
        for _ in live.updates():
            yield exchange
        yield exchange

    def _until_closed(self) -> Iterator[Exchange]:
        live = self._live
        try:
            yield from self.watch()
        finally:
            if live is not None:
                live.stop()

    def undo(self) -> Exchange | None:
        """Take the last question and its answer back; None if there is none. What they replaced comes back."""
        self.stop()
        if not self.exchanges:
            return None
        exchange = self.exchanges.pop()
        branches = exchange.branches
        if branches is not None:
            del branches.tails[branches.current]
            branches.current = max(0, branches.current - 1)
            if branches.tails:
                self.exchanges += branches.tails[branches.current]
        return exchange

    def switch(self, index: int, step: int) -> None:
        """Go on with another branch at exchange `index`: with the one `step` places further, in a circle.

        Raises RequestError while an answer is being written, and where there is no branch.
        """
        with _STARTING:
            self.check_free()
            branches = self.exchange(index).branches
            if branches is None:
                raise RequestError("There is only one version of that question.")
            branches.tails[branches.current] = self.exchanges[index:]
            branches.current = (branches.current + step) % len(branches.tails)
            self.exchanges[index:] = branches.tails[branches.current]

    def all_exchanges(self) -> list[Exchange]:
        """Those of the conversation and of the branches that it does not go on with."""
        found: dict[int, Exchange] = {}
        waiting = list(self.exchanges)
        while waiting:
            exchange = waiting.pop()
            if id(exchange) not in found:
                found[id(exchange)] = exchange
                waiting += [one for tail in (exchange.branches.tails if exchange.branches else []) for one in tail]
        return list(found.values())

    def reset(self) -> None:
        """A new conversation, which gets a key of its own."""
        self.stop()
        self.exchanges.clear()
        self._forget_answer()
        self.key = ""

    def restore(self, exchanges: Sequence[Exchange]) -> None:
        """A conversation that was kept elsewhere, in place of this one. Raises StillAnswering."""
        with _STARTING:
            self.check_free()
            self.exchanges[:] = exchanges
            self._forget_answer()
            self.key = secrets.token_urlsafe(24)

    def _forget_answer(self) -> None:
        """The last one, which holds its question's pictures."""
        self._live = self._answered = None

    def stop(self) -> None:
        """End the running answer and free the model; what was said so far stays."""
        if self._live is not None:
            self._live.stop()

    def check_free(self) -> None:
        """Raises StillAnswering while an answer is being written."""
        if self.is_answering:
            raise StillAnswering("An answer is still being written. Stop it first, or wait.")

    def exchange(self, index: int) -> Exchange:
        """The exchange at this place. Raises RequestError where there is none."""
        if not 0 <= index < len(self.exchanges):
            raise RequestError("That question is no longer there.")
        return self.exchanges[index]

    def _put(self, exchange: Exchange, index: int) -> None:
        """At this place in the conversation; what was there and after it becomes another branch."""
        replaced = self.exchanges[index:]
        if replaced:
            branches = replaced[0].branches or Branches([replaced])
            branches.tails[branches.current] = replaced
            branches.tails.append([exchange])
            branches.current = len(branches.tails) - 1
            replaced[0].branches = exchange.branches = branches
        self.exchanges[index:] = [exchange]

    def _answer(self, model: ChatModel, exchange: Exchange, old: Exchange | None = None) -> Exchange:
        """Starts at once, so that a second question is refused even before the first update is read."""
        last = len(self.exchanges) - 1
        turns, first = self.turns(last, model), self.first_seen(last, model)
        exchange.first_seen = first if first != self.first_seen(last) else 0
        ended = partial(_ended, exchange, old)
        live = LiveAnswer(model, turns, exchange.sampling, on_answer=exchange.receive, on_end=ended)
        self._live, self._answered = live, exchange  # before it starts: from here on `stop` finds it
        live.start()
        return exchange


def _ended(exchange: Exchange, old: Exchange | None, error: BaseException | None) -> None:
    """What is left when nothing more comes: an answer, a part of one, the reason why there is none, or the old one."""
    if isinstance(error, MiniVLMError):
        exchange.error = str(error)
    elif error is not None:
        number = uuid.uuid4().hex[:8]
        logger.error("Answer failed (%s)", number, exc_info=error)
        exchange.error = f"Something went wrong in the program. Try again; its log has the details under {number}."
    exchange.answer = exchange.answer or Answer(text="")
    if exchange.is_running:
        exchange.answer = replace(exchange.answer, finish_reason="cancelled")
    if old is not None and old.text and not exchange.text:
        exchange.answer, exchange.sampling, exchange.extras = old.answer, old.sampling, old.extras
        exchange.model, exchange.asked = old.model, old.asked
        exchange.rating, exchange.first_seen = old.rating, old.first_seen


def with_seed(sampling: Sampling) -> Sampling:
    """The same settings with a seed, so that every answer can be repeated."""
    return sampling if sampling.seed is not None else replace(sampling, seed=random.randrange(2**31))
