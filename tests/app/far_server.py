"""A server that answers chat completions from a script, byte by byte, also in every wrong way."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MODEL = "far/model"

Reply = Callable[["Handler"], None]


@dataclass
class FarServer:
    """`replies` are taken in order, the last again and again; `bodies` and `headers` are those of the questions."""

    url: str = ""
    models: Any = field(default_factory=lambda: {"object": "list", "data": [{"id": MODEL}]})
    models_reply: list[Reply] = field(default_factory=list)  # instead of `models`, each once
    replies: list[Reply] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    num_running: int = 0
    num_left: int = 0  # connections that the client closed before the reply was over
    lock: threading.Lock = field(default_factory=threading.Lock)
    go_on: threading.Event = field(default_factory=threading.Event)  # what `wait` waits for

    def say(self, *deltas: str, **last: Any) -> None:
        """Answer with these pieces of text from now on."""
        self.replies = [stream(deltas, **last)]


class Handler(BaseHTTPRequestHandler):
    far: FarServer

    def do_GET(self) -> None:
        if self.far.models_reply:
            self.far.models_reply.pop(0)(self)
        else:
            send_json(self, self.far.models)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.far.bodies.append(json.loads(body))
        self.far.headers.append({name.lower(): value for name, value in self.headers.items()})
        with self.far.lock:
            self.far.num_running += 1
        try:
            reply = self.far.replies.pop(0) if len(self.far.replies) > 1 else self.far.replies[0]
            reply(self)
        except OSError:
            with self.far.lock:
                self.far.num_left += 1
        finally:
            with self.far.lock:
                self.far.num_running -= 1
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


@contextmanager
def far_server() -> Iterator[FarServer]:
    """A running server."""
    far = FarServer()
    server = Server(("127.0.0.1", 0), type("Bound", (Handler,), {"far": far}))
    far.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield far
    far.go_on.set()
    server.shutdown()
    server.server_close()
    thread.join()


def begin(handler: Handler, status: int = 200, kind: str = "text/event-stream", **headers: str) -> None:
    handler.send_response(status)
    handler.send_header("content-type", kind)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()


def send_json(handler: Handler, value: Any, status: int = 200, **headers: str) -> None:
    begin(handler, status, "application/json", **headers)
    handler.wfile.write(json.dumps(value).encode())


def chunk(text: str | None = None, reason: str | None = None, **delta: Any) -> str:
    """A chunk of a stream as JSON."""
    if text is not None:
        delta["content"] = text
    return json.dumps({"choices": [{"index": 0, "delta": delta, "finish_reason": reason}]})


def event(handler: Handler, data: str) -> None:
    handler.wfile.write(f"data: {data}\n\n".encode())
    handler.wfile.flush()


def stream(
    deltas: Sequence[str], *, reason: str = "stop", usage: dict[str, Any] | None = None, done: bool = True, **last: Any
) -> Reply:
    """A usual answer; `last` are fields of the last chunk's delta."""

    def reply(handler: Handler) -> None:
        begin(handler)
        event(handler, chunk("", role="assistant"))
        for delta in deltas:
            event(handler, chunk(delta))
        event(handler, chunk(None, reason, **last))
        if usage is not None:
            event(handler, json.dumps({"choices": [], "usage": usage}))
        if done:
            event(handler, "[DONE]")

    return reply


def refuse(status: int, body: Any = None, **headers: str) -> Reply:
    """An error of HTTP; a text is sent as it is."""

    def reply(handler: Handler) -> None:
        if isinstance(body, str):
            begin(handler, status, "text/plain", **headers)
            handler.wfile.write(body.encode())
        else:
            send_json(handler, body, status, **headers)

    return reply


def raw(data: bytes, kind: str = "text/event-stream") -> Reply:
    """These bytes, then the end of the connection."""

    def reply(handler: Handler) -> None:
        begin(handler, 200, kind)
        handler.wfile.write(data)

    return reply


def forever(data: bytes, first: bytes = b"") -> Reply:
    """These bytes again and again until the client leaves."""

    def reply(handler: Handler) -> None:
        begin(handler)
        handler.wfile.write(first)
        while not handler.far.go_on.is_set():
            handler.wfile.write(data)

    return reply


def wait(first: str = "") -> Reply:
    """Perhaps a beginning, then pings, more and more, until the client leaves or the server is told to go on."""

    def reply(handler: Handler) -> None:
        if first:
            begin(handler)
            event(handler, chunk(first))
        else:
            begin(handler)
        while not handler.far.go_on.wait(0.02):
            handler.wfile.write(b": still working\n\n")
            handler.wfile.flush()
        event(handler, chunk(" and on", "stop"))
        event(handler, "[DONE]")

    return reply
