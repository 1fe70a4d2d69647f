"""One running answer, read by a thread of its own, so that the page never waits for the model.

The page can show "stopped" at once, notice a closed tab while a long prompt is being read, and skip answers that came
faster than it can draw.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextvars import copy_context
from dataclasses import replace

from app.chat.encoding import well_formed
from engine.asker import ASKER, Asker
from engine.chat_model import ChatModel, Stream
from models.conversation import Answer, Sampling, Turn

UPDATE_INTERVAL = 0.02  # seconds between two updates of the page, at least
RESTING = 3  # a page rests this many times as long as its last update took, once for each answer of its browser that is
# being written, that once for each browser of its address, and that once for each address: all addresses have the same
# time for drawing, in an address all browsers, and many answers of one don't slow down somebody else's.
LONGEST_REST = 0.25  # seconds of rest for each of them, at most
LONGEST_OF_ALL = 1.0  # seconds of rest, however many there are; unless the update itself took longer
HEARTBEAT = 0.5  # seconds after which the last state is repeated, so that a closed tab is noticed

_being_written: set[LiveAnswer] = set()  # of all conversations
_pages: dict[object, Asker] = {}  # that show one of them: whom each answer is for


class LiveAnswer:
    """`model.stream(turns, sampling)`, read in a thread from `start` on; any number of readers follow it by `updates`.

    `on_answer` gets every answer of the model, `on_end` what ended it: an error of the model, or None. That is called
    once, at once after `stop`, and before any reader sees the end. No answer comes after it.

    `changed`: shared by answers that are followed together (`updates_of`).

    `on_change`: called whenever there is something new, the end included, for who looks at `latest`, `is_running` and
    `error` instead.
    """

    def __init__(
        self,
        model: ChatModel,
        turns: Sequence[Turn],
        sampling: Sampling,
        *,
        on_answer: Callable[[Answer], None] | None = None,
        on_end: Callable[[BaseException | None], None] | None = None,
        on_change: Callable[[], None] = lambda: None,
        changed: threading.Condition | None = None,
    ) -> None:
        self._on_change = on_change
        self._changed = changed or threading.Condition()
        self._latest = Answer(text="")
        self._version = 0
        self._error: BaseException | None = None
        self._stream: Stream | None = None
        self._stopped = threading.Event()
        self._finished = threading.Event()
        self._is_over = threading.Event()  # by one of these
        self.asker = ASKER.get()
        self._on_answer, self._on_end = on_answer, on_end
        # In the caller's context: some models must know for whom they answer (ZeroGPU counts each visitor's seconds).
        arguments = (self._read, model, tuple(turns), sampling)
        self._thread = threading.Thread(target=copy_context().run, args=arguments, name="answer", daemon=True)

    def start(self) -> LiveAnswer:
        """Ask the model; if `stop` came before, nothing is asked."""
        _being_written.add(self)
        self._thread.start()
        return self

    @property
    def is_running(self) -> bool:
        """Whether more may come: neither finished, failed nor stopped."""
        return not (self._finished.is_set() or self._stopped.is_set())

    @property
    def error(self) -> BaseException | None:
        """What the model raised, once it has."""
        return self._error

    @property
    def latest(self) -> Answer:
        return self._latest

    def updates(self) -> Iterator[Answer]:
        """The answer so far: at once, then whenever it has grown and at each heartbeat; ends when it is final.

        Closing this only ends the reading.
        """
        for _ in updates_of([self]):
            yield self._latest

    def stop(self) -> None:
        """Show nothing more and free the model. It may be called from any thread, any number of times."""
        with self._changed:
            self._end(self._stopped)
        if self._stream is not None:
            self._stream.close()

    def fail(self, error: BaseException) -> None:
        """As `stop`, with the reason; an answer that has ended is left as it is."""
        with self._changed:
            if self.is_running:
                self._error = error
            self._end(self._stopped, error)
        if self._stream is not None:
            self._stream.close()
        self._on_change()

    def _end(self, how: threading.Event, error: BaseException | None = None) -> None:
        """Under the lock: it is over, for every reader."""
        if self.is_running and self._on_end is not None:
            self._on_end(error)
        how.set()
        self._is_over.set()
        _being_written.discard(self)
        self._changed.notify_all()

    def _read(self, model: ChatModel, turns: Sequence[Turn], sampling: Sampling) -> None:
        try:
            if not self._stopped.is_set():
                self._stream = model.stream(turns, sampling)
            if self._stopped.is_set() or self._stream is None:  # `stop` came before there was anything to close
                return
            for answer in self._stream:
                with self._changed:
                    if self._stopped.is_set():
                        break
                    answer = replace(answer, text=well_formed(answer.text))
                    self._latest = answer
                    self._version += 1
                    if self._on_answer is not None:
                        self._on_answer(answer)
                    self._changed.notify_all()
                self._on_change()
        except BaseException as error:  # handed to `on_end`
            if not self._stopped.is_set():
                self._error = error
        finally:
            if self._stream is not None:
                self._stream.close()
            with self._changed:
                self._end(self._finished, self._error)
            self._on_change()


def end_all(error: BaseException) -> None:
    """End all answers that are being written, of all conversations and clients, with this reason."""
    for live in list(_being_written):
        live.fail(error)


def updates_of(lives: Sequence[LiveAnswer]) -> Iterator[None]:
    """Whenever one of these has something new: at once, then with every change and at each heartbeat; ends when all are
    final. They share one condition. Closing this only ends the reading."""
    page = object()
    _pages[page] = lives[0].asker
    try:
        yield from _updates_of(lives)
    finally:
        _pages.pop(page, None)


def _updates_of(lives: Sequence[LiveAnswer]) -> Iterator[None]:
    changed = lives[0]._changed
    seen: list[tuple[int, bool]] | None = None

    def state() -> list[tuple[int, bool]]:
        return [(live._version, live.is_running) for live in lives]

    def is_news() -> bool:
        return state() != seen or not any(live.is_running for live in lives)

    while True:
        with changed:
            changed.wait_for(is_news, HEARTBEAT)
            seen = state()
        is_last = not any(is_running for _, is_running in seen)
        shown = time.monotonic()
        yield
        if is_last:
            return
        # Sets the pace, slower where drawing takes longer: a long chat must leave time to others. The end wakes it.
        running = next((live for live in lives if live.is_running), lives[0])
        rest = _rest(time.monotonic() - shown, running.asker)
        running._stopped.wait(UPDATE_INTERVAL)
        running._is_over.wait(rest - UPDATE_INTERVAL)


def _rest(drawing: float, asker: Asker) -> float:
    """Seconds until a page's next update after one that took this long: all together leave time to the model."""
    written = Counter(live.asker for live in list(_being_written))
    browsers = Counter(one.client for one in written)
    drawn = max(written[asker], sum(shown == asker for shown in list(_pages.values())))  # one answer may be in many
    rest = drawn * browsers[asker.client] * len(browsers) * min(RESTING * drawing, LONGEST_REST)
    return max(UPDATE_INTERVAL, drawing, min(rest, LONGEST_OF_ALL))
