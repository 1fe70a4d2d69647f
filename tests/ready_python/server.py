"""Imports the large libraries once and runs programs in forks: `python server.py NUMBER_OF_THE_LISTENING_SOCKET`.

It ends when its stdin does, and kills what it runs then. A fork leaves the loop, becomes the program in the main thread
and ends as any Python does.
"""

from __future__ import annotations

import gc
import importlib
import io
import json
import os
import runpy
import selectors
import signal
import socket
import sys
from contextlib import suppress
from importlib.abc import InspectLoader
from importlib.machinery import SourceFileLoader
from types import ModuleType
from typing import Any

LIBRARIES = (
    "accelerate", "torch", "torch._dynamo", "torch._inductor.compile_fx", "torch.distributed.run",
    "torch.utils.data", "torch.utils.tensorboard", "transformers", "transformers.generation.continuous_batching",
    "transformers.modeling_utils", "transformers.models.auto", "transformers.models.llama.modeling_llama",
    "PIL.Image",
)  # fmt: skip


class _Text(InspectLoader):
    """A program that is no file."""

    def __init__(self, text: str) -> None:
        self._text = text

    def get_source(self, fullname: str) -> str:
        return self._text


class Server:
    """Runs programs until its owner is gone."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._clients: dict[int, socket.socket] = {}  # by the process that runs for them
        self._selector = selectors.DefaultSelector()
        self._woken, self._wakes = socket.socketpair()
        for end in (self._woken, self._wakes):
            end.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wakes.fileno(), warn_on_full_buffer=False)
        for file in (listener, self._woken, sys.stdin):
            self._selector.register(file, selectors.EVENT_READ)

    def serve(self) -> tuple[dict[str, Any], list[int]] | None:
        """In a fork: what to run and its stdin, stdout and stderr. None when there is nobody left to serve."""
        while True:
            for key, _ in self._selector.select():
                if key.fileobj is sys.stdin:
                    for process in self._clients:
                        os.kill(process, signal.SIGKILL)
                    self._leave()
                    return None
                if key.fileobj is self._woken:
                    self._woken.recv(4096)
                    self._reap()
                elif key.fileobj is self._listener:
                    request, files = _receive(client := self._listener.accept()[0])
                    process = os.fork()
                    if not process:
                        self._leave()
                        client.close()
                        return request, files
                    for file in files:
                        os.close(file)
                    self._clients[process] = client
                    self._selector.register(client, selectors.EVENT_READ, process)
                elif key.data in self._clients:
                    self._pass_on(key.data)

    def _pass_on(self, process: int) -> None:
        """Signals that a client got; the end of one that was killed is the same for its program."""
        numbers = self._clients[process].recv(64)
        for number in numbers or (signal.SIGKILL,):
            os.kill(process, number)
        if not numbers:
            self._selector.unregister(self._clients[process])

    def _reap(self) -> None:
        with suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                client = self._clients.pop(ended[0])
                with suppress(KeyError):  # of a client that was killed
                    self._selector.unregister(client)
                with client, suppress(BrokenPipeError):
                    client.send(os.waitstatus_to_exitcode(ended[1]).to_bytes(2, "big", signed=True))

    def _leave(self) -> None:
        """Nothing of the server stays open in a fork, or at its end."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        # As in a Python of a terminal's, also where the tests run in the background and Ctrl+C is ignored.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        self._selector.close()
        for one in (self._listener, self._woken, self._wakes, *self._clients.values()):
            one.close()


def _receive(client: socket.socket) -> tuple[dict[str, Any], list[int]]:
    head, files, *_ = socket.recv_fds(client, 4, 3)
    size, message = int.from_bytes(head, "big"), b""
    while len(message) < size:
        message += client.recv(size - len(message))
    return json.loads(message), list(files)


def become(request: dict[str, Any], files: list[int], path: list[str]) -> None:
    """Run the program as Python does that is started in this folder with these arguments."""
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    _open_streams()
    named = os.environ.get("PYTHONPATH")
    sys.path[:] = [*(named.split(os.pathsep) if named else []), *path]
    kind, *rest = request["argv"]
    main = ModuleType("__main__")
    sys.modules["__main__"] = main
    if kind == "-m":
        sys.argv = rest
        sys.path.insert(0, os.getcwd())
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif kind == "-c":
        sys.argv = ["-c", *rest[1:]]
        sys.path.insert(0, "")
        _Text(rest[0]).exec_module(main)
    else:
        sys.argv = [kind, *rest]
        sys.path.insert(0, os.path.dirname(os.path.abspath(kind)))
        main.__file__ = kind
        SourceFileLoader("__main__", os.path.abspath(kind)).exec_module(main)


def _open_streams() -> None:
    unbuffered = bool(os.environ.get("PYTHONUNBUFFERED"))
    sys.stdin = io.TextIOWrapper(io.BufferedReader(io.FileIO(0, closefd=False)), encoding="utf-8")
    for name, number in (("stdout", 1), ("stderr", 2)):
        stream = io.TextIOWrapper(
            io.BufferedWriter(io.FileIO(number, "w", closefd=False)),
            encoding="utf-8",
            errors="strict" if number == 1 else "backslashreplace",
            line_buffering=number == 2 or os.isatty(number),
            write_through=unbuffered,
        )
        setattr(sys, name, stream)


def main() -> None:
    """In the server and, after its loop, in every fork."""
    path = sys.path[1:]
    for name in LIBRARIES:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    found = Server(socket.socket(fileno=int(sys.argv[1]))).serve()
    if found is not None:
        become(*found, path)


if __name__ == "__main__":
    main()
