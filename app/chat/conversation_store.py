"""Conversations by their keys: kept while their page is open and a while longer, within a number of bytes.

A key can't be guessed and is known to one visitor's browser only, so having it is the right to see the conversation.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from app.chat.shelf import Shelf
from engine.asker import ASKER, Asker
from models.tensors.freed import give_back_freed_memory

logger = logging.getLogger(__name__)

LIFETIME = 3600.0  # seconds that a conversation is kept after its page has gone
GRACE = 30.0  # seconds that an answer goes on after its page has gone: a lost connection comes back sooner
MAX_BYTES = 1 << 30  # in memory
STOPPING = 1.0  # seconds between two checks whether a stopped answer has ended
LEAST = 1 / 16_384  # of the budget: a conversation counts as that much, however short, and a file takes as much disk


class Keepable(Protocol):
    """A conversation with whatever a page keeps beside it."""

    @property
    def is_answering(self) -> bool: ...

    def sizes(self) -> Mapping[str, int]:
        """The bytes it holds by their content's name; what several hold under one name is counted once."""
        ...

    def abandon(self, seconds: float) -> None:
        """End the running answer: its page has been gone for so long."""
        ...

    def forget(self) -> None:
        """Let go of everything; whoever still has it finds it empty."""
        ...


Kept = TypeVar("Kept", bound=Keepable)


@dataclass
class _Entry(Generic[Kept]):
    """A conversation, or the file that it was put into."""

    conversation: Kept | None
    sizes: Mapping[str, int]  # as they were when it was used last: asking all of them for every question takes long
    owner: Asker
    left: float | None = None  # when its page went away; None while one is open
    file: Path | None = None
    file_size: int = 0
    stays: bool = False  # it could not be written

    @property
    def is_answering(self) -> bool:
        return self.conversation is not None and self.conversation.is_answering


class ConversationStore(Generic[Kept]):
    """The conversations of all visitors, each by its key. Thread-safe.

    While there are conversations whose page has gone, a thread stops their answers and, later, forgets them.

    With a `shelf`, conversations whose page has gone for `grace` seconds go there; their pages find them all the same.
    Without one they stay in memory.
    """

    def __init__(
        self,
        *,
        lifetime: float = LIFETIME,
        grace: float = GRACE,
        max_bytes: int = MAX_BYTES,
        shelf: Shelf | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.lifetime, self.grace, self.max_bytes = lifetime, grace, max_bytes
        self._shelf = shelf
        self._clock = clock
        self._entries: OrderedDict[str, _Entry[Kept]] = OrderedDict()  # the one that was used last comes last
        self._changed = threading.Condition()
        self._caretaker: threading.Thread | None = None
        self._has_news = False  # something was left since the caretaker looked

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def num_bytes(self) -> int:
        """What all conversations hold in memory, shared content counted once."""
        with self._changed:
            return _total(entry.sizes for entry in self._entries.values())

    def keep(self, key: str, conversation: Kept) -> None:
        """Keep a conversation, or note that its page is there and uses it; the oldest over the budget are forgotten."""
        sizes = {**conversation.sizes(), f"conversation {key}": int(LEAST * self.max_bytes)}
        entry = _Entry(conversation, sizes, ASKER.get())
        with self._changed:
            self._drop_file(key)
            self._entries[key] = entry
            self._entries.move_to_end(key)
            self._shrink(key, {key: entry.sizes for key, entry in self._entries.items()}, self.max_bytes)

    def get(self, key: str) -> Kept | None:
        """The conversation of this key, whose page is there from now on; None if it is not kept (any more)."""
        with self._changed:
            entry = self._entries.get(key)
            if entry is None:
                return None
            if entry.conversation is None and not self._unshelve(entry):
                del self._entries[key]
                return None
            entry.left = None
            self._entries.move_to_end(key)
            return entry.conversation

    def leave(self, key: str) -> None:
        """The page has gone. Unless it returns, its answer is stopped, and later the conversation forgotten."""
        with self._changed:
            entry = self._entries.get(key)
            if entry is None or entry.left is not None:
                return
            entry.left = self._clock()
            self._has_news = True
            if self._caretaker is None:
                self._caretaker = threading.Thread(target=self._take_care, name="conversations", daemon=True)
                self._caretaker.start()
            self._changed.notify_all()

    def drop(self, key: str) -> None:
        """Forget a conversation now."""
        with self._changed:
            self._drop(key)

    def tidy(self) -> float | None:
        """End answers, shelve and drop what has had its time; the seconds until there is more to do, or None."""
        left = self._left()
        for key in left:
            self._put_on_shelf(key)
        if left:
            give_back_freed_memory()  # pictures, of which the C library keeps what lies between others
        with self._changed:
            now = self._clock()
            waits = []
            for key, entry in list(self._entries.items()):
                if entry.left is None:
                    continue
                gone = now - entry.left
                if gone >= self.lifetime and not entry.is_answering:
                    self._drop(key)
                elif gone >= self.grace:
                    waits.append(STOPPING if entry.is_answering else max(0.0, self.lifetime - gone))
                else:
                    waits.append(self.grace - gone)
            return min(waits, default=None)

    def _left(self) -> list[str]:
        """The conversations whose page has gone for good, as far as one can tell; none of them is answering on."""
        with self._changed:
            left = self._clock() - self.grace
            keys = [key for key, entry in self._entries.items() if entry.left is not None and entry.left <= left]
            conversations = {key: one for key in keys if (one := self._entries[key].conversation) is not None}
            for one in conversations.values():
                one.abandon(self.grace)
            return [key for key, one in conversations.items() if not one.is_answering]

    def _put_on_shelf(self, key: str) -> None:
        """Writing may take a second, in which others, and its own page, may use the store."""
        entry = self._entries.get(key)
        if self._shelf is None or entry is None or entry.conversation is None or entry.stays:
            return
        conversation, left = entry.conversation, entry.left
        try:
            file = self._shelf.put(conversation)
            size = file.stat().st_size
        except Exception as error:  # a full disk, or a conversation that its page has come back to meanwhile
            entry.stays = True
            logger.warning("A conversation stays in memory: it can't be written (%s)", error)
            return
        with self._changed:
            if self._entries.get(key) is not entry or entry.left != left:
                self._shelf.remove(file)  # its page has come back
                return
            entry.conversation, entry.sizes, entry.file, entry.file_size = None, {}, file, size
            conversation.forget()  # gradio may still hold it for a while
            most = self._shelf.max_bytes
            least = int(LEAST * most)
            sizes = {key: {key: max(entry.file_size, least)} for key, entry in self._entries.items() if entry.file}
            self._shrink(key, sizes, most)

    def _take_care(self) -> None:
        while True:
            self._has_news = False
            wait = self.tidy()
            with self._changed:
                if self._has_news:
                    continue
                if wait is None:
                    self._caretaker = None
                    return
                self._changed.wait(wait)

    def _unshelve(self, entry: _Entry[Kept]) -> bool:
        """Read it back into memory; whether that went well."""
        assert self._shelf is not None
        assert entry.file is not None
        try:
            conversation: Kept = self._shelf.take(entry.file)
        except Exception:
            logger.exception("A conversation could not be read back")
            return False
        entry.conversation, entry.sizes = conversation, conversation.sizes()
        entry.file, entry.file_size = None, 0
        return True

    def _drop(self, key: str) -> None:
        self._drop_file(key)
        entry = self._entries.pop(key, None)
        if entry is not None and entry.conversation is not None:
            entry.conversation.forget()

    def _drop_file(self, key: str) -> None:
        entry = self._entries.get(key)
        if entry is not None and entry.file is not None and self._shelf is not None:
            self._shelf.remove(entry.file)

    def _shrink(self, but: str, sizes: Mapping[str, Mapping[str, int]], budget: int) -> None:
        """Drop some of these until the budget holds, never running answers nor `but`.

        First those of the address that holds most, and of its browsers of the one that does; of these left ones, then
        those used longest ago.
        """
        kept = dict(sizes)
        while _total(kept.values()) > budget:
            held: Counter[object] = Counter()
            for key, parts in kept.items():
                owner = self._entries[key].owner
                held.update({who: sum(parts.values()) for who in (owner.client, owner)})

            def order(key: str, held: Counter[object] = held) -> tuple[int, int, bool]:
                entry = self._entries[key]
                return -held[entry.owner.client], -held[entry.owner], entry.left is None

            free = (key for key in kept if key != but and not self._entries[key].is_answering)
            first = min(free, key=order, default=None)  # the oldest of several
            if first is None:
                return
            del kept[first]
            self._drop(first)
            logger.warning("A conversation was dropped: all together hold more than %d MiB", budget >> 20)


def _total(sizes: Iterable[Mapping[str, int]]) -> int:
    """The bytes of all; what several hold under one name is counted once."""
    merged: dict[str, int] = {}
    for parts in sizes:
        merged.update(parts)
    return sum(merged.values())
