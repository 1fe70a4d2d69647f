"""A few processes that decode pictures, started when one is needed and killed when a file takes them too far."""

from __future__ import annotations

import atexit
import json
import logging
import os
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
from PIL import Image

from app.chat.decoding.decode import WORKING_PIXELS, Decoded, DecodeError
from app.chat.decoding.fair_places import Turns

logger = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parents[3]
SIZE = 2  # pictures that are decoded at the same time
MAX_SECONDS = 60.0  # a picture may take, on a busy machine; a worker limits the processor time itself, to less
NICE = 3  # answers and pages go first, by half: at 10, ordinary pictures waited for seconds on a busy machine
ENDING_SECONDS = 5.0  # that one which has closed its pipes has to end by itself, and to say how
LOOK_SECONDS = 0.1  # between two looks at how long a picture has taken

TOO_SLOW = "takes too long to read. Save it anew as an ordinary JPEG or PNG and upload that."
BROKE_DOWN = "can't be read: its decoder broke down. Save it anew as an ordinary JPEG or PNG and upload that."

_LENGTH = struct.Struct(">Q")


class WorkerGone(Exception):
    """A worker ended before it had answered."""


class Worker:
    """One process (worker.py), which decodes one file at a time."""

    def __init__(self) -> None:
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "app.chat.decoding.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            # Ctrl+C is for the server, which then closes the worker. A new session would keep it from that, too, but
            # schedulers that group processes by session would then give the worker as much time as the server.
            process_group=0 if os.name == "posix" else None,
        )
        if hasattr(os, "setpriority"):  # from its start on, which is a tenth of a second of work
            os.setpriority(os.PRIO_PROCESS, self.pid, os.getpriority(os.PRIO_PROCESS, 0) + NICE)
        self._seconds = 0.0
        self._has_answered = True  # whole, all that it was asked
        self._was_too_slow = False
        self.was_given_up = False  # for somebody else's picture

    @property
    def pid(self) -> int:
        return self._process.pid

    def decode(
        self, data: bytes, *, max_seconds: float = MAX_SECONDS, is_wanted: Callable[[float], bool] = lambda _: False
    ) -> Decoded:
        """The picture in a file. Raises DecodeError as `decode` does, WorkerGone if the process did not survive it.

        `is_wanted` is told now and then how many seconds of processor time it took; where it says so, it is given up.
        """
        is_over, before = threading.Event(), self._processor_seconds()
        self._has_answered = False

        def watch() -> None:
            end = time.monotonic() + max_seconds
            while not is_over.wait(min(LOOK_SECONDS, max(0.0, end - time.monotonic()))):
                self._was_too_slow = time.monotonic() >= end
                self.was_given_up = not self._was_too_slow and is_wanted(self._processor_seconds() - before)
                if self._was_ended:
                    self._process.kill()
                    return

        watching = threading.Thread(target=watch, name="decoder's watch", daemon=True)
        watching.start()
        try:
            header, pixels = self._exchange(data)
        except (OSError, EOFError, ValueError, TypeError, LookupError) as error:
            raise WorkerGone from error
        finally:
            is_over.set()
            watching.join()
            is_wanted(self._processor_seconds() - before)
        self._has_answered = True
        if "error" in header:
            raise DecodeError(str(header["error"]))
        image = Image.frombytes("RGB", tuple(header["size"]), pixels)
        width, height = header["original_size"]
        return Decoded(image, (width, height), bool(header["shows_alike"]))

    def _exchange(self, data: bytes) -> tuple[dict[str, Any], bytes]:
        requests, answers = self._process.stdin, self._process.stdout
        assert requests is not None
        assert answers is not None
        requests.write(_LENGTH.pack(len(data)))
        requests.write(data)
        requests.flush()
        header = json.loads(answers.readline())
        if "error" in header:
            return header, b""
        width, height = header["size"]
        if not 0 < width * height <= WORKING_PIXELS:
            raise ValueError(header)
        pixels = answers.read(3 * width * height)
        if len(pixels) < 3 * width * height:
            raise EOFError
        return header, pixels

    @property
    def _was_ended(self) -> bool:
        """Whether it was killed here, be it when it had just answered."""
        return self._was_too_slow or self.was_given_up

    @property
    def is_ready(self) -> bool:
        """Whether it can be given a file; one that had nothing to do for long has ended."""
        return self._has_answered and not self._was_ended and self._process.poll() is None

    def _processor_seconds(self) -> float:
        """That the process has taken so far; as far as it was known, once it is gone."""
        with suppress(psutil.Error):
            times = psutil.Process(self.pid).cpu_times()
            self._seconds = times.user + times.system
        return self._seconds

    @property
    def reason(self) -> str:
        """Why it is gone, as the end of a sentence about the file; empty if it had ended before, as idle ones do."""
        with suppress(subprocess.TimeoutExpired):  # its pipes are closed a little earlier
            self._process.wait(ENDING_SECONDS)
        status = self.close()
        if self._was_too_slow or status == -getattr(signal, "SIGXCPU", 0):
            return TOO_SLOW
        return BROKE_DOWN if status else ""

    def close(self) -> int:
        """End the process, if it has not ended, and give its exit status."""
        if self._process.poll() is None:
            self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            with suppress(OSError):  # of what it has not been sent yet
                if pipe is not None:
                    pipe.close()
        return self._process.wait()


class DecoderPool:
    """At most `size` workers decode; who wants one waits for its turn, but not for all the pictures of somebody else.

    From its first picture on there is one worker more, so that nobody waits for a process to start where another's
    picture was given up: that takes a quarter of a second, twice as long as a conversation about a picture.
    """

    def __init__(self, size: int = SIZE) -> None:
        self._size = size
        self._turns = Turns(size)
        self._lock = threading.Lock()
        self._idle: list[Worker] = []
        self._num_busy = 0

    def decode(self, data: bytes, *, max_seconds: float = MAX_SECONDS) -> Decoded:
        """As `decode` in decode.py, in another process, within limits of time and memory. Raises DecodeError."""
        while True:
            with self._turns.turn() as turn, self._worker() as (worker, is_new):
                try:
                    return worker.decode(data, max_seconds=max_seconds, is_wanted=turn.is_wanted)
                except WorkerGone:
                    reason = worker.reason
                    if worker.was_given_up or not (reason or is_new):
                        continue
                    logger.warning("a picture's decoder was ended: %s", reason)
                    raise DecodeError(reason or BROKE_DOWN) from None

    @contextmanager
    def _worker(self) -> Iterator[tuple[Worker, bool]]:
        """A worker for the time of the block, and whether it has just been started."""
        with self._lock:
            self._drop_ended()
            is_new = not self._idle
            worker = Worker() if is_new else self._idle.pop()
            self._num_busy += 1
        try:
            yield worker, is_new
        finally:
            with self._lock:
                self._num_busy -= 1
                self._idle.append(worker)
                has_answered = worker.is_ready
                self._drop_ended()
                while has_answered and len(self._idle) + self._num_busy <= self._size:  # or it is wanted at once
                    self._idle.insert(0, Worker())  # behind those that have decoded something

    def _drop_ended(self) -> None:
        for worker in [one for one in self._idle if not one.is_ready]:
            worker.close()
            self._idle.remove(worker)

    def close(self) -> None:
        """End the workers that have nothing to do."""
        with self._lock:
            workers, self._idle = self._idle, []
        for worker in workers:
            worker.close()


POOL = DecoderPool()
atexit.register(POOL.close)
