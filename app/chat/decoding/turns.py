"""Whose turn it is: a few places that everybody waits for, given to those who had them least."""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count

from app.chat.asker import ASKER, Asker

REMEMBERED = 4096  # clients and visits, with when their last turn was


class Turns:
    """`size` places. With more than one, no address has all of them: others need not wait for its many."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._changed = threading.Condition()
        self._numbers = count(1)
        self._waiting: dict[int, Asker] = {}
        self._running: Counter[str | Asker] = Counter()
        self._last: OrderedDict[str | Asker, int] = OrderedDict()

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for a place, and hold it for the time of the block. Who asks is told by ASKER."""
        asker = ASKER.get()
        with self._changed:
            number = next(self._numbers)
            self._waiting[number] = asker
            try:
                self._changed.wait_for(lambda: self._next() == number)
            finally:
                del self._waiting[number]
            self._running.update((asker.client, asker))
            self._remember(asker.client, asker)
            self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._running.subtract((asker.client, asker))
                self._running += Counter()  # without those that have none
                self._changed.notify_all()

    def _next(self) -> int | None:
        """The number of the one whose turn it is, if a place is free for it."""
        if sum(self._running[who] for who in self._running if isinstance(who, Asker)) >= self._size:
            return None
        most = max(1, self._size - 1)
        able = [number for number, asker in self._waiting.items() if self._running[asker.client] < most]
        return min(able, key=self._order, default=None)

    def _order(self, number: int) -> tuple[int, ...]:
        """First by address, then by visit: who has fewer places, and whose last turn is longer ago."""
        asker = self._waiting[number]
        whose: tuple[str | Asker, ...] = (asker.client, asker)
        return (*(value for who in whose for value in (self._running[who], self._last.get(who, 0))), number)

    def _remember(self, *whose: str | Asker) -> None:
        for who in whose:
            self._last[who] = next(self._numbers)
            self._last.move_to_end(who)
        while len(self._last) > REMEMBERED:
            self._last.popitem(last=False)
