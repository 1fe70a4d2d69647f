"""Presses that take long in a long chat, or with a large picture, are worked off one at a time, with pauses."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from app.chat.decoding.fair_places import Turns

RESTING = 3  # times as long as the work took, until the next: others have most of the processor, whoever presses what
SHORT = 0.001  # seconds of work, after which there is no rest


class LongWork:
    """One place, which goes round by turns of who pressed."""

    def __init__(self) -> None:
        self.turns = Turns(1)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Work in the block once it is one's turn. Who comes next waits a while longer than that."""
        place = ExitStack()
        place.enter_context(self.turns.turn())
        begun = time.thread_time()
        try:
            yield
        finally:
            took = time.thread_time() - begun
            if took < SHORT:
                place.close()
            else:
                rest = threading.Timer(RESTING * took, place.close)
                rest.daemon = True
                rest.start()


LONG_WORK = LongWork()  # on chats
