"""One running answer, read by a thread of its own, so that the page never waits for the model.

The page can show "stopped" at once, notice a closed tab while a long prompt is being read, and skip answers that came
faster than it can draw.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

from app.chat_model import ChatModel
from models.conversation import Answer, Sampling, Turn

UPDATE_INTERVAL = 0.05  # seconds between two updates of the page
HEARTBEAT = 0.5  # seconds after which the last state is repeated, so that a closed tab is noticed


class LiveAnswer:
    """Starts `model.stream(turns, sampling)` in a thread; `updates` gives the newest answer again and again."""

    def __init__(self, model: ChatModel, turns: Sequence[Turn], sampling: Sampling) -> None:
        self._changed = threading.Condition()
        self._latest = Answer(text="")
        self._version = 0
        self._error: BaseException | None = None
        self._iterator: Any = None
        self._stopped = threading.Event()
        self._finished = threading.Event()
        arguments = (model, tuple(turns), sampling)
        self._thread = threading.Thread(target=self._read, args=arguments, name="answer", daemon=True)
        self._thread.start()

    @property
    def is_running(self) -> bool:
        """Whether more may come: neither finished, failed nor stopped."""
        return not (self._finished.is_set() or self._stopped.is_set())

    @property
    def latest(self) -> Answer:
        return self._latest

    def updates(self) -> Iterator[Answer]:
        """The answer so far: at once, then whenever it has grown and at each heartbeat; ends when it is final.

        Raises what the model raised, after the last text before it.
        """
        seen = -1
        while True:
            seen, is_last = self._wait_for_change(seen)
            shown = time.monotonic()
            yield self._latest
            if is_last:
                if self._error is not None and not self._stopped.is_set():
                    raise self._error
                return
            # Sets the pace, slower where drawing takes longer: a long chat must leave time to others. Stop wakes it.
            self._stopped.wait(max(UPDATE_INTERVAL, time.monotonic() - shown))

    def _wait_for_change(self, seen: int) -> tuple[int, bool]:
        """The version of the newest answer, which differs from `seen` unless time is up, and whether it is the last."""
        with self._changed:
            self._changed.wait_for(lambda: self._version != seen or not self.is_running, timeout=HEARTBEAT)
            return self._version, not self.is_running

    def stop(self) -> None:
        """Show nothing more and free the model. It may be called from any thread, any number of times."""
        self._stopped.set()
        with self._changed:
            self._changed.notify_all()
        if self._iterator is not None:
            _close(self._iterator)

    def _read(self, model: ChatModel, turns: Sequence[Turn], sampling: Sampling) -> None:
        try:
            self._iterator = model.stream(turns, sampling)
            if self._stopped.is_set():  # `stop` came before there was anything to close
                return
            for answer in self._iterator:
                if self._stopped.is_set():
                    break
                with self._changed:
                    self._latest = answer
                    self._version += 1
                    self._changed.notify_all()
        except BaseException as error:  # handed to the reader of `updates`
            self._error = error
        finally:
            if self._iterator is not None:
                _close(self._iterator)
            self._finished.set()
            with self._changed:
                self._changed.notify_all()


def _close(iterator: Any) -> None:
    """Close a stream if it can be closed. A generator that is busy in another thread is closed by that thread."""
    with suppress(ValueError):
        getattr(iterator, "close", lambda: None)()
