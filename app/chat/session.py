"""ChatSession: a conversation and nothing else. What a page shows is drawn from it and never read back."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import wraps
from typing import Concatenate, ParamSpec

from app.chat.answering import Answering, Rival, asked, asked_again
from app.chat.exchange import Branches, Exchange, Pair, WantedExtras
from app.chat.normaliser import normalise
from app.chat.pictures import Picture
from app.chat.questions import check_question, with_box
from app.chat.seen import first_seen, turns_of
from engine.chat_model import ChatModel
from models.conversation import Sampling, Turn
from models.errors import RequestError
from models.grounding import Box

# Under this lock it is checked that no answer is being written, and the next one is started: of two questions sent at
# the same instant one is then refused. It is one lock for all conversations because gradio copies a session for every
# visitor, and a lock can't be copied. It is held for about a millisecond.
_STARTING = threading.Lock()


class StillAnswering(RequestError):
    """Refused because an answer is being written; outdated as soon as that has ended."""


Updates = Iterator[Exchange]
P = ParamSpec("P")


def _watched(begin: Callable[Concatenate[ChatSession, P], Exchange]) -> Callable[Concatenate[ChatSession, P], Updates]:
    """As `begin`; yields the exchange whenever its answer has grown. Closing the iterator stops the answer."""

    @wraps(begin)
    def begin_and_watch(session: ChatSession, *args: P.args, **kwargs: P.kwargs) -> Updates:
        begin(session, *args, **kwargs)
        return session._until_closed()

    return begin_and_watch


class ChatSession:
    """One conversation, whoever holds it: ask, stop, retry, undo, reset."""

    def __init__(self) -> None:
        self.exchanges: list[Exchange] = []
        self.key = ""  # from the first question on; whoever knows it may see the conversation, so it can't be guessed
        self._answering: Answering | None = None  # of the question that was asked last

    def __getstate__(self) -> dict[str, object]:
        """For a copy or a file: without the answer that is being written, which is a thread's."""
        return {**self.__dict__, "_answering": None}

    @property
    def is_answering(self) -> bool:
        return self.num_answering > 0

    @property
    def num_answering(self) -> int:
        """How many answers are being written: two where a question has a pair of them."""
        return 0 if self._answering is None else self._answering.num_running

    def picture_before(self, index: int) -> Picture | None:
        """The last image of the exchanges before `index`."""
        return next((turn.pictures[-1] for turn in reversed(self.exchanges[:index]) if turn.pictures), None)

    def picture_of(self, index: int) -> Picture | None:
        """The image that exchange `index` is about: its own, or the last before it."""
        return self.picture_before(index + 1)

    def turns(self, upto: int, model: ChatModel | None = None) -> list[Turn]:
        """The conversation as the model sees it when it answers exchange `upto`: see `turns_of`."""
        return turns_of(self.exchanges[: upto + 1], model)

    def first_seen(self, upto: int, model: ChatModel | None = None) -> int:
        """The first exchange that the model sees then."""
        return first_seen(self.exchanges[: upto + 1], model)

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
        rival: Rival | None = None,
    ) -> Exchange:
        """Add a question and let it be answered, whether or not somebody watches.

        `replacing`: the exchange that makes way for the question, with all after it, once the question is accepted;
        `switch` brings them back. `rival` answers as well, at the same time; the conversation goes on with the first,
        unless `go_on_with` says otherwise.

        A question that can't be asked raises RequestError here, before anything has changed. Later errors are kept in
        `Exchange.error`.
        """
        text = with_box(normalise(text, model.info.tasks), box, model.info.tasks)
        with _STARTING:
            self.check_free()
            if replacing is not None:
                self.exchange(replacing)  # raises if it is not there
            index = len(self.exchanges) if replacing is None else replacing
            has_image = bool(pictures) or self.picture_before(index) is not None
            for one in (model, *([rival.model] if rival else [])):
                check_question(text, one.info, num_images=len(pictures), has_image=has_image)
            exchange = asked(model, text, pictures, sampling, extras, is_first=index == 0)
            if rival is not None:
                other = asked(rival.model, text, pictures, rival.sampling, rival.extras, is_first=index == 0)
                exchange.pair = other.pair = Pair(exchange, other)
            self.key = self.key or secrets.token_urlsafe(24)
            self._put(exchange, index)
            return self._answer(model, exchange, rival)

    def begin_again(
        self,
        model: ChatModel,
        sampling: Sampling | None = None,
        *,
        extras: WantedExtras | None = None,
        rival: Rival | None = None,
    ) -> Exchange:
        """Answer the last question again, by one model or two. An old answer comes back if the new one has no text."""
        with _STARTING:
            self.check_free()
            if not self.exchanges:
                raise RequestError("There is no question to answer again.")
            old = self.exchanges[-1]
            exchange = asked_again(model, old if rival is None else old.answers[0], sampling, extras)
            if rival is not None:
                other = asked_again(rival.model, old.answers[-1], rival.sampling, rival.extras)
                exchange.pair = other.pair = Pair(exchange, other)
            self.exchanges[-1] = exchange
            return self._answer(model, exchange, rival, old)

    ask = _watched(begin)
    retry = _watched(begin_again)

    def watch(self) -> Updates:
        """The exchange that is being answered whenever its answer has grown, and once more when it has ended.

        Any number of readers may watch; closing the iterator does not stop the answer.
        """
        if self._answering is not None:
            yield from self._answering.updates()

    def _until_closed(self) -> Updates:
        answering = self._answering
        try:
            yield from self.watch()
        finally:
            if answering is not None:
                answering.stop()

    def go_on_with(self, index: int, side: str) -> None:
        """The last question's other answer, "left" or "right", is what was said from now on.

        Raises RequestError while one is being written, where there is but one, and once the conversation has gone on.
        """
        with _STARTING:
            self.check_free()
            chosen = next((one for one in self.exchange(index).answers if one.side == side), None)
            if chosen is None or not side:
                raise RequestError("That question has one answer only.")
            if index != len(self.exchanges) - 1:
                raise RequestError("The conversation went on with the other answer. Edit that question to ask again.")
            self.exchanges[index] = chosen

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
                waiting += exchange.answers
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
        self._answering = None

    def stop(self) -> None:
        """End the running answer and free the model; what was said so far stays."""
        if self._answering is not None:
            self._answering.stop()

    def fail(self, error: BaseException) -> None:
        """As `stop`, with the reason, which stays with the answer."""
        if self._answering is not None:
            self._answering.fail(error)

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
            for one in (*replaced[0].answers, *exchange.answers):
                one.branches = branches
        self.exchanges[index:] = [exchange]

    def _answer(
        self, model: ChatModel, exchange: Exchange, rival: Rival | None, old: Exchange | None = None
    ) -> Exchange:
        """Starts at once, so that a second question is refused even before the first update is read."""
        answering, before = Answering(exchange), self.exchanges[:-1]
        if rival is None or exchange.pair is None:
            answering.add(model, exchange, before, old)
        else:
            answering.add(model, exchange, before, old.answers[0] if old else None)
            answering.add(rival.model, exchange.pair.right, before, old.pair.right if old and old.pair else None)
        self._answering = answering  # before it starts: from here on `stop` finds it
        answering.start()
        return exchange
