"""Who may use the model now: a fixed number of places and a bounded, first-come queue for them."""

from __future__ import annotations

import threading
from collections import deque

from models.errors import Busy


class Admission:
    """`places` requests at once; up to `max_waiting` more wait in order; whoever comes then is told Busy."""

    def __init__(self, *, places: int, max_waiting: int) -> None:
        self._places = places
        self._max_waiting = max_waiting
        self._active = 0
        self._queue: deque[threading.Event] = deque()
        self._lock = threading.Lock()

    def join(self) -> threading.Event:
        """Take a place, or stand in the queue for it; set once the place is taken. Raises Busy if the queue is full."""
        turn = threading.Event()
        with self._lock:
            if self._active < self._places and not self._queue:
                self._active += 1
                turn.set()
            elif len(self._queue) < self._max_waiting:
                self._queue.append(turn)
            else:
                raise Busy(f"{len(self._queue)} questions are waiting already; try again in a moment.")
        return turn

    def number(self, turn: threading.Event) -> int:
        """Its number in the queue, from 1; 0 once it has a place or has left."""
        with self._lock:
            return self._queue.index(turn) + 1 if turn in self._queue else 0

    def leave(self, turn: threading.Event) -> None:
        """Out of the queue, or give the place to whoever waits longest. Once for each `join`."""
        with self._lock:
            if not turn.is_set():
                self._queue.remove(turn)
            elif self._queue:
                self._queue.popleft().set()
            else:
                self._active -= 1

    @property
    def num_active(self) -> int:
        with self._lock:
            return self._active

    @property
    def num_waiting(self) -> int:
        with self._lock:
            return len(self._queue)
