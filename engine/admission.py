"""Admission: a fixed number of requests run at once; the others wait in a bounded queue, client by client in turn."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from engine.asker import ASKER, NOBODY, Asker, LastServed, Rounds
from models.errors import Busy

ASKED_SECONDS = 10.0  # that an address counts as one that asks: a person reads an answer, and asks the next question


class QueueEntry(threading.Event):
    """A request in the admission queue; the event is set once the request is admitted."""

    def __init__(self, asker: Asker) -> None:
        super().__init__()
        self.asker = asker
        self.admitted_at = 0.0
        self.waited_with: int | None = None  # how many others waited when it was turned away


class Admission:
    """Admits up to `places` requests at once; up to `max_waiting` more wait, and further ones are refused.

    Waiting requests are admitted round-robin (`Rounds`): over addresses, and over the browsers of each; in each round
    who had places for the least time lately comes first. Where there are four places or more, no address gets all of
    them, and the last that an address gets are for browsers of it that have none. With `share_evenly`, for devices on
    which each request makes the steps of all others longer, an address that would get more than half of them gets half
    while others ask. If the queue is full, the request that would be admitted last is turned away, be it the new one or
    another. Requests without an address (`NOBODY`) may take every place.
    """

    def __init__(
        self,
        *,
        places: int,
        max_waiting: int,
        share_evenly: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.places = places
        self._clock = clock
        self._asked = LastServed()
        self._share_evenly = share_evenly and places >= 4
        self._most = places - 1 if places >= 4 else places  # of one address
        self._max_waiting = max_waiting
        self._active = Rounds(clock)
        self._arrived: list[QueueEntry] = []  # who waits, by arrival
        self._queue: list[QueueEntry] = []  # the same, in the order in which they will be admitted
        self._lock = threading.Lock()

    def join(self) -> QueueEntry:
        """A new request's entry, which is set once the request is admitted. Raises Busy if the queue is full."""
        entry = QueueEntry(ASKER.get())
        with self._lock:
            self._arrived.append(entry)
            self._asked.note(entry.asker.client, self._clock())
            self._admit()
            if len(self._arrived) > self._max_waiting:
                last = self._queue[-1]
                self._arrived.remove(last)
                self._queue.remove(last)
                last.waited_with = len(self._arrived)
                if last is entry:
                    raise _full(entry)
        return entry

    def queue_number(self, entry: QueueEntry) -> int:
        """Its number in the queue, from 1; 0 once it is admitted or has left. Raises Busy if it was turned away."""
        with self._lock:
            if entry in self._queue:
                return self._queue.index(entry) + 1
        if entry.waited_with is not None:
            raise _full(entry)
        return 0

    def leave(self, entry: QueueEntry) -> None:
        """Leave the queue, or free a place, which goes to the first in the queue. To be called once for each `join`."""
        with self._lock:
            if entry.is_set():
                self._active.end(entry.asker, self._clock() - entry.admitted_at)
            elif entry in self._arrived:
                self._arrived.remove(entry)
            self._admit()

    def _admit(self) -> None:
        """Under the lock: put the queue in order, and give free places to the first who may have them."""
        while True:
            self._queue = self._active.order(self._arrived, lambda entry: entry.asker)
            first = next((entry for entry in self._queue if self._may_begin(entry.asker)), None)
            if first is None:
                return
            self._arrived.remove(first)
            self._active.begin(first.asker)
            first.admitted_at = self._clock()
            first.set()

    def _may_begin(self, asker: Asker) -> bool:
        has_less = asker == NOBODY or self._active.may_begin(asker, self._most_of(asker.client), self.places)
        return self._active.total < self.places and has_less

    def _most_of(self, client: str) -> int:
        others_ask = self._clock() - self._asked.other_than(client) <= ASKED_SECONDS
        return self.places // 2 if self._share_evenly and others_ask else self._most

    @property
    def num_active(self) -> int:
        """Requests that are admitted and have not left."""
        with self._lock:
            return self._active.total

    @property
    def num_waiting(self) -> int:
        """Requests in the queue."""
        with self._lock:
            return len(self._arrived)


def _full(entry: QueueEntry) -> Busy:
    return Busy(f"{entry.waited_with} questions are waiting already; try again in a moment.")
