"""What the `spaces` package does on ZeroGPU, without a GPU: a decorated generator runs in a forked worker.

As there: the worker is forked at the first call, arguments and values are pickled, each call runs in a new thread of
the worker, and the worker is kept for the next call, unless `WORKERS.may_reuse` is off, an exception left the generator
or the worker ended. Closing the generator tells the worker to stop, which it sees after its next value; the caller
waits for that. Of an exception only the class's name arrives, as a gr.Error. Threads of the first process are not
there in the worker.
"""

from __future__ import annotations

import inspect
import multiprocessing
import pickle
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial, wraps
from typing import Any

import gradio as gr
from gradio.context import LocalContext

_FORK = multiprocessing.get_context("fork")


@dataclass
class Workers:
    """What the stand-in did, for tests, and what it is to do next."""

    may_reuse: bool = True  # what the scheduler says: the GPU has been idle since this worker's last call
    refusal: str = ""  # the scheduler's answer instead of a GPU
    forks: int = 0
    seconds: list[int] = field(default_factory=list)  # asked for, by call
    visitors: list[Any] = field(default_factory=list)  # the request of gradio's that the call belongs to, by call
    current: _Worker | None = None
    processes: list[multiprocessing.process.BaseProcess] = field(default_factory=list)  # all that were forked


WORKERS = Workers()
_is_worker = False


class _Worker:
    def __init__(self, task: Callable[..., Iterator[Any]]) -> None:
        self.calls, theirs = _FORK.Pipe()
        self.stop = _FORK.Event()
        self.process = _FORK.Process(target=_work, args=(task, theirs, self.stop), daemon=True)
        self.process.start()
        theirs.close()
        WORKERS.forks += 1
        WORKERS.processes.append(self.process)


def _work(task: Callable[..., Iterator[Any]], calls: Any, stop: Any) -> None:
    global _is_worker
    _is_worker = True
    signal.signal(signal.SIGTERM, lambda *_: calls.close())  # in place of the program's, which would wait for answers
    while True:
        try:
            arguments = pickle.loads(calls.recv_bytes())
        except (EOFError, OSError):
            return
        stop.clear()
        thread = threading.Thread(target=_iterate, args=(task, arguments, calls, stop))
        thread.start()
        thread.join()
        calls.send_bytes(pickle.dumps(("end", None)))


def _iterate(task: Callable[..., Iterator[Any]], arguments: Any, calls: Any, stop: Any) -> None:
    generator: Any = task(*arguments)
    try:
        for value in generator:
            if stop.is_set():
                generator.close()
                return
            calls.send_bytes(pickle.dumps(("value", value)))
    except Exception as error:
        traceback.print_exc()
        calls.send_bytes(pickle.dumps(("error", type(error).__name__)))


def GPU(task: Any = None, *, duration: Any = None, size: str | None = None) -> Any:  # its name there
    """Decorate a generator function."""
    del size
    if task is None:
        return partial(GPU, duration=duration)
    assert inspect.isgeneratorfunction(task)

    @wraps(task)
    def call(*args: Any) -> Iterator[Any]:
        if _is_worker:
            yield from task(*args)
            return
        WORKERS.seconds.append(duration(*args) if callable(duration) else duration or 60)
        WORKERS.visitors.append(LocalContext.request.get(None))
        if WORKERS.refusal:
            raise gr.Error(WORKERS.refusal, title="ZeroGPU quota exceeded", print_exception=False)
        worker, WORKERS.current = WORKERS.current, None
        if worker is None or not worker.process.is_alive() or not WORKERS.may_reuse:
            worker = _Worker(task)
        worker.calls.send_bytes(pickle.dumps(args))
        yield from _read(worker)

    return call


def _read(worker: _Worker) -> Iterator[Any]:
    while True:
        try:
            kind, value = pickle.loads(worker.calls.recv_bytes())
        except (EOFError, ConnectionResetError):
            raise gr.Error("GPU task aborted", title="ZeroGPU worker error", print_exception=False) from None
        if kind == "error":
            raise gr.Error(value, title="ZeroGPU worker error", print_exception=False)
        if kind == "end":
            WORKERS.current = worker
            return
        try:
            yield value
        except GeneratorExit:
            worker.stop.set()
            with suppress(EOFError, ConnectionResetError):
                while pickle.loads(worker.calls.recv_bytes())[0] == "value":
                    pass
                WORKERS.current = worker
            raise


def end_workers() -> None:
    """End all workers and forget what was counted.

    Also those that are not kept: a forked process holds all open pipes of this one, for example that to a browser's
    driver, which then would wait for its end forever.
    """
    for process in WORKERS.processes:
        process.kill()
        process.join()
    WORKERS.__init__()  # type: ignore[misc]
