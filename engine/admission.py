"""Admission: a fixed number of requests at once, and a bounded first-in, first-out queue for the others."""

from __future__ import annotations

import threading
from collections import deque

from models.errors import Busy


class Admission:
    """Admits up to `places` requests at once; up to `max_waiting` more wait in order, and further ones are refused."""

    def __init__(self, *, places: int, max_waiting: int) -> None:
        self.places = places
        self._max_waiting = max_waiting
        self._active = 0
        self._queue: deque[threading.Event] = deque()
        self._lock = threading.Lock()

    def join(self) -> threading.Event:
        """A new request's entry, which is set once the request is admitted. Raises Busy if the queue is full."""
        entry = threading.Event()
        with self._lock:
            if self._active < self.places and not self._queue:
                self._active += 1
                entry.set()
            elif len(self._queue) < self._max_waiting:
                self._queue.append(entry)
            else:
                raise Busy(f"{len(self._queue)} questions are waiting already; try again in a moment.")
        return entry

    def number(self, entry: threading.Event) -> int:
        """Its number in the queue, from 1; 0 once it is admitted or has left."""
        with self._lock:
            return self._queue.index(entry) + 1 if entry in self._queue else 0

    def leave(self, entry: threading.Event) -> None:
        """Leave the queue, or free a place, which goes to the first in the queue. To be called once for each `join`."""
        with self._lock:
            if not entry.is_set():
                self._queue.remove(entry)
            elif self._queue:
                self._queue.popleft().set()
            else:
                self._active -= 1

    @property
    def num_active(self) -> int:
        """Requests that are admitted and have not left."""
        with self._lock:
            return self._active

    @property
    def num_waiting(self) -> int:
        """Requests in the queue."""
        with self._lock:
            return len(self._queue)
