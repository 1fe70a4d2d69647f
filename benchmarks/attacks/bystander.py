"""Somebody else at the same server, whose conversation is timed and compared; and the memory of the server."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import psutil

from benchmarks.random_models import picture
from benchmarks.soak_http import Visitor, as_png

SAMPLE_SECONDS = 0.1
PAUSE = 0.4  # seconds between two conversations: one browser alone may not ask as often as it could


@dataclass
class Bystander:
    """One conversation after the other: a page, a picture that the server has not seen yet, three questions."""

    visitor: Visitor
    expected: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    visits: int = 0

    def __post_init__(self) -> None:
        self._image = as_png(picture(3))

    def visit(self) -> float:
        """The seconds that a conversation takes; what was wrong with it is added to `wrong`."""
        self.visits += 1
        self.visitor.image = self._image + b"%d" % self.visits  # the same pixels, and another file: it is decoded anew
        begun = time.monotonic()
        try:
            answers = self.visitor.visit()
        except Exception as error:
            self.wrong.append(f"{type(error).__name__}: {error}"[:200])
            return time.monotonic() - begun
        self.expected = self.expected or answers
        if answers != self.expected:
            self.wrong.append(f"{answers} instead of {self.expected}")
        return time.monotonic() - begun

    def visits_while(self, goes_on: Callable[[], bool]) -> list[float]:
        """The seconds of each, at least of one, until it does not go on."""
        seconds = [self.visit()]
        while goes_on():
            time.sleep(PAUSE)
            seconds.append(self.visit())
        return seconds


@contextmanager
def watched_memory(pid: int) -> Iterator[Callable[[], float]]:
    """Gives the most memory, in MiB, that a process and those it started had together since the block began."""
    peak, is_over = 0.0, threading.Event()

    def look() -> None:
        nonlocal peak
        server = psutil.Process(pid)
        while not is_over.wait(SAMPLE_SECONDS):
            total = 0
            for process in (server, *server.children(recursive=True)):
                try:
                    total += process.memory_info().rss
                except psutil.NoSuchProcess:
                    continue
            peak = max(peak, total / 2**20)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield lambda: peak
    finally:
        is_over.set()
        thread.join()
