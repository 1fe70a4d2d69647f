"""What an attack is given: the server's address, ways to send it anything, and how long to go on."""

from __future__ import annotations

import asyncio
import secrets
import socket
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import httpx

from benchmarks.soak_http import PageConfig

FILE = {"_type": "gradio.FileData"}


@dataclass
class Target:
    """The server at `url`, attacked from `address` for `seconds`.

    `begin` is to be called once everything is prepared: from then on somebody else's conversation is timed.
    """

    url: str
    address: str
    seconds: float
    page: PageConfig
    begin: Callable[[], object] = bool  # which does nothing

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])

    def until_end(self) -> Callable[[], bool]:
        """Whether there is time left, counted from now."""
        end = time.monotonic() + self.seconds
        return lambda: time.monotonic() < end

    def client(self, **settings: Any) -> httpx.Client:
        """One that keeps cookies, and connections."""
        transport = httpx.HTTPTransport(local_address=self.address, limits=httpx.Limits(max_connections=None))
        return httpx.Client(base_url=self.url, timeout=120, transport=transport, **settings)

    def browser(self) -> Browser:
        """One more browser, which has opened the page."""
        client = self.client()
        client.get("/")
        return Browser(self, client)

    def head(self, line: str, *more: str) -> bytes:
        """The head of a request, for connections that are written to by hand."""
        return "\r\n".join([f"{line} HTTP/1.1", f"Host: 127.0.0.1:{self.port}", *more, "", ""]).encode()

    def connect(self) -> socket.socket:
        """A connection."""
        return socket.create_connection(("127.0.0.1", self.port), 10, source_address=(self.address, 0))

    async def opened(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """The same, to be awaited."""
        return await asyncio.open_connection("127.0.0.1", self.port, local_addr=(self.address, 0))


class Browser:
    """A browser without a window; each question may be in a session of its own."""

    def __init__(self, target: Target, client: httpx.Client) -> None:
        self._target = target
        self.client = client
        self.session = secrets.token_hex(6)

    def upload(self, *files: bytes, ending: str = "png") -> list[str]:
        """Their paths on the server; none where the upload is refused."""
        sent = [("files", (f"{number}.{ending}", content)) for number, content in enumerate(files)]
        answer = self.client.post("/gradio_api/upload", files=sent)
        return answer.json() if answer.status_code == 200 else []

    def press(self, listener: str, data: list[Any], session: str | None = None, **more: Any) -> int:
        """Call a listener that has no queue; the HTTP status. `more`: fields of the request."""
        return self._called("run/predict", listener, data, session, more)

    def join(self, listener: str, data: list[Any], session: str | None = None, **more: Any) -> int:
        """Put a call of a listener into the queue, without waiting for what comes of it; the HTTP status."""
        return self._called("queue/join", listener, data, session, more)

    def _called(self, route: str, listener: str, data: list[Any], session: str | None, more: dict[str, Any]) -> int:
        number = self._target.page.listeners[listener]
        body = {"data": data, "session_hash": session or self.session, "fn_index": number, **more}
        return self.client.post(f"/gradio_api/{route}", json=body).status_code

    def attach(self, paths: list[str], session: str | None = None) -> int:
        """Have the page decode uploaded files; the HTTP status."""
        return self.press("attach", [None, message("", paths)], session)

    def ask(self, text: str, paths: list[str], *, session: str | None = None, length: int = 40) -> int:
        """Put a question into the page's queue, without waiting for its answer; the HTTP status."""
        data = [None, "", message(text, paths), None, *self._target.page.settings_for(length)]
        return self.join("ask", data, session)

    def wait(self, session: str) -> None:
        """Read what is sent to a session up to its end."""
        with self.client.stream("GET", "/gradio_api/queue/data", params={"session_hash": session}) as stream:
            for _ in stream.iter_raw():
                pass


def message(text: str, paths: list[str]) -> dict[str, Any]:
    """What the text box holds."""
    return {"text": text, "files": [{"path": path, "meta": FILE} for path in paths]}


def at_once(number: int, do: Callable[[int], object]) -> Counter[str]:
    """Call `do` with 0 to number - 1, all at the same time; how often each result or kind of error came."""

    def outcome(index: int) -> str:
        try:
            return str(do(index))
        except Exception as error:
            return type(error).__name__

    with ThreadPoolExecutor(min(number, 200)) as threads:
        return Counter(threads.map(outcome, range(number)))


def all_at_once(number: int, do: Callable[[int], Awaitable[object]]) -> Counter[str]:
    """The same with coroutines, for thousands of connections."""

    async def outcome(index: int) -> str:
        try:
            return str(await do(index))
        except Exception as error:
            return type(error).__name__

    async def all_of_them() -> Counter[str]:
        return Counter(await asyncio.gather(*map(outcome, range(number))))

    return asyncio.run(all_of_them())
