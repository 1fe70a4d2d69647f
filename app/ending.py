"""How the server ends: running answers may be finished, nothing new begins, and a second Ctrl+C ends it at once."""

from __future__ import annotations

import atexit
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

from models.disk import delete_scratch

LOOK_SECONDS = 0.05
SIGHUP = getattr(signal, "SIGHUP", None)  # the terminal was closed; Windows has none


@contextmanager
def signals_end_it() -> Iterator[None]:
    """Ctrl+C and SIGTERM end the program at once, until something else listens to them.

    As an exception in the middle of an import it may come out of it as another, or end the program from C++, with a
    hundred lines. By SIGTERM the program dies as it would by itself, but leaves no scratch folder.
    """

    def end(number: int, frame: FrameType | None) -> None:
        del frame
        delete_scratch()
        if number == signal.SIGINT:
            os.write(2, b"\nStopped.\n")
        else:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        os._exit(128 + number)  # in a container, too, whose first process does not die by that

    ends = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    ends = {number: before for number, before in ends.items() if before is not signal.SIG_IGN}
    for number in ends:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number, before in ends.items():
            if signal.getsignal(number) is end:  # else the server has its own, to the very end
                signal.signal(number, before)


class Ending:
    """Waits for a signal to end, and gives answers `grace` seconds. To be made and used in the main thread."""

    def __init__(self, grace: float) -> None:
        self._grace = grace
        # An Event's lock would be waited for for ever by a signal that comes while `wait` holds it.
        self._asks: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._is_asked = False
        self._terminals = [file for file in (1, 2) if os.isatty(file)]
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        if SIGHUP is not None and signal.getsignal(SIGHUP) is signal.SIG_DFL:  # else nohup keeps it away
            signal.signal(SIGHUP, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self._is_asked and number == signal.SIGINT:
            delete_scratch()  # visitors' pictures
            os._exit(130)  # whoever presses twice means it; nothing here must be saved
        if number == SIGHUP:
            for file in self._terminals:  # where every line would be an error now
                os.dup2(os.open(os.devnull, os.O_WRONLY), file)
        self._is_asked = True
        self._asks.put(number)

    def wait(self, look: Callable[[], None]) -> None:
        """Return once the program was asked to end; until then look after things every two seconds."""
        while not self._is_asked:
            with suppress(queue.Empty):
                self._asks.get(timeout=2)
            if not self._is_asked:
                look()

    def close_within(self, seconds: float) -> None:
        """From now on the program may take so long to end: a thread that hangs does not keep it longer."""
        timer = threading.Timer(seconds, leave)
        timer.daemon = True
        timer.start()

    def let_finish(self, is_busy: Callable[[], bool]) -> bool:
        """Wait while there is something to finish, for the time of grace; whether all was finished."""
        end = time.monotonic() + self._grace
        while is_busy():
            if time.monotonic() >= end:
                return False
            time.sleep(LOOK_SECONDS)
        return True


def leave() -> NoReturn:
    """End the program with status 0, whatever its threads still compute.

    Python by itself would unwind them in the middle of C++ code that may not be unwound, which aborts the program.
    """
    atexit._run_exitfuncs()  # scratch folders go all the same
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # closed, or nobody reads it any more
            stream.flush()
    os._exit(0)
