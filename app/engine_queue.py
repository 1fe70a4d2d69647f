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

    def enter(self, abandoned: threading.Event) -> bool:
        """Wait for a place; True when it is taken, False when `abandoned` was set (see `wake`). Raises Busy."""
        turn = threading.Event()
        with self._lock:
            if self._active < self._places and not self._queue:
                self._active += 1
                return True
            if len(self._queue) >= self._max_waiting:
                raise Busy(f"{len(self._queue)} questions are waiting already; try again in a moment.")
            self._queue.append(turn)
        while not turn.wait(timeout=0.05):
            if abandoned.is_set():
                with self._lock:
                    if turn in self._queue:
                        self._queue.remove(turn)
                        return False
        return True  # `leave` handed its place over

    def leave(self) -> None:
        """Give a place back, to whoever waits longest."""
        with self._lock:
            if self._queue:
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
