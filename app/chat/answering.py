"""The answers to one question while they are written: one, or two of different models or settings at the same time."""

from __future__ import annotations

import logging
import random
import threading
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

from app.chat.exchange import Exchange, WantedExtras, now, usual_extras
from app.chat.live_answer import LiveAnswer, updates_of
from app.chat.pictures import Picture
from app.chat.questions import asked_phrase
from app.chat.seen import first_seen, turns_of
from engine.chat_model import ChatModel
from models.conversation import Answer, Sampling
from models.errors import MiniVLMError

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Rival:
    """Who else answers a question, and how; `sampling` and `extras` as in `ChatSession.begin`."""

    model: ChatModel
    sampling: Sampling | None = None
    extras: WantedExtras | None = None


def asked(
    model: ChatModel,
    text: str,
    pictures: Sequence[Picture],
    sampling: Sampling | None,
    extras: WantedExtras | None,
    *,
    is_first: bool,
) -> Exchange:
    """A question to a model, not answered yet."""
    info = model.info
    exchange = Exchange(model.neutralise(text), tuple(pictures), with_seed(sampling or info.sampling))
    exchange.extras = extras or usual_extras(info)
    exchange.phrase = asked_phrase(exchange.question, info.tasks)
    exchange.model, exchange.asked = info.name, now()
    exchange.begins_anew = bool(pictures) and info.one_image_per_chat and not is_first
    return exchange


def asked_again(model: ChatModel, old: Exchange, sampling: Sampling | None, extras: WantedExtras | None) -> Exchange:
    """The same question to a model, not answered yet."""
    exchange = Exchange(old.question, old.pictures, with_seed(sampling or old.sampling))
    exchange.extras, exchange.begins_anew = extras or old.extras, old.begins_anew
    exchange.branches = old.branches
    exchange.phrase, exchange.model, exchange.asked = old.phrase, model.info.name, now()
    return exchange


def with_seed(sampling: Sampling) -> Sampling:
    """The same settings with a seed, so that every answer can be repeated."""
    return sampling if sampling.seed is not None else replace(sampling, seed=random.randrange(2**31))


class Answering:
    """What answers `exchange`, the last of a conversation, once it was started."""

    def __init__(self, exchange: Exchange) -> None:
        self.exchange = exchange
        self._changed = threading.Condition()
        self._lives: list[LiveAnswer] = []

    def add(self, model: ChatModel, exchange: Exchange, before: list[Exchange], old: Exchange | None = None) -> None:
        """Let `model` answer this exchange after those `before` it; `old` comes back if there is no text."""
        seen = [*before, exchange]
        first = first_seen(seen, model)
        exchange.first_seen = first if first != first_seen(seen) else 0
        ended = partial(_ended, exchange, old)
        turns = turns_of(seen, model)
        self._lives.append(
            LiveAnswer(model, turns, exchange.sampling, on_answer=exchange.receive, on_end=ended, changed=self._changed)
        )

    def start(self) -> None:
        """Ask all models."""
        for live in self._lives:
            live.start()

    @property
    def num_running(self) -> int:
        """How many answers are still being written."""
        return sum(live.is_running for live in self._lives)

    def stop(self) -> None:
        """End them all; from any thread, any number of times."""
        for live in self._lives:
            live.stop()

    def fail(self, error: BaseException) -> None:
        """As `stop`, with the reason."""
        for live in self._lives:
            live.fail(error)

    def updates(self) -> Iterator[Exchange]:
        """The exchange whenever one of its answers has grown, and once more when all have ended."""
        for _ in updates_of(self._lives):
            yield self.exchange
        yield self.exchange


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
