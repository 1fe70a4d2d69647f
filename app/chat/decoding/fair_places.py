"""A few places that all clients wait for, given first to those who had them least."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from engine.asker import ASKER, Asker, Rounds


class Turns:
    """`size` places. With more than one, no address has all of them: others need not wait for its many."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._most = max(1, size - 1)  # of one address
        self._changed = threading.Condition()
        self._waiting: list[list[Asker]] = []  # in lists of one, which differ where their askers do not
        self._rounds = Rounds()

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for a place, and hold it for the time of the block. Who asks is told by ASKER."""
        asker = ASKER.get()
        entry = [asker]
        with self._changed:
            self._waiting.append(entry)
            try:
                self._changed.wait_for(lambda: self._next() is entry)
            finally:
                self._waiting = [one for one in self._waiting if one is not entry]
            self._rounds.begin(asker)
            self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._rounds.end(asker)
                self._changed.notify_all()

    def _next(self) -> list[Asker] | None:
        """The one whose turn it is, if a place is free for it."""
        if self._rounds.total >= self._size:
            return None
        order = self._rounds.order(self._waiting, lambda entry: entry[0])
        return next((one for one in order if self._rounds.of_client(one[0].client) < self._most), None)
