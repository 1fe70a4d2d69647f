"""One answer of another server: asked by a task of the event loop, read by any thread, ended by any thread."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any

import httpx

from app.remote.answer import Heard, Reading
from app.remote.completion_request import picture_size
from app.remote.events import MAX_BYTES, events
from app.remote.served_elsewhere import ServedElsewhere, no_connection
from app.remote.server_errors import http_error
from engine.chat_model import Stream
from models.conversation import Answer, Turn
from models.errors import MiniVLMError, ServerFailed

MAX_ERROR = 64 * 1024  # bytes of a response that is an error

Ask = Callable[[], Coroutine[Any, Any, None]]
Submit = Callable[[Coroutine[Any, Any, None]], "Future[None]"]


class RemoteStream(Stream):
    """See Stream. `close` closes the connection, by which the server notices that nobody waits."""

    def __init__(
        self,
        served: ServedElsewhere,
        turns: tuple[Turn, ...],
        reading: Reading,
        *,
        on_end: Callable[[bool], None] = lambda _: None,
    ) -> None:
        self._served = served
        self._size = picture_size(turns)
        self._reading = reading
        self._on_end = on_end
        self._changed = threading.Condition()
        self._heard: Heard | None = None  # not given to the reader yet
        self._error: BaseException | None = None
        self._is_over = self._is_closed = self._succeeded = False
        self._started = time.monotonic()
        self._task: Future[None] | None = None

    def start(self, submit: Submit, ask: Ask) -> RemoteStream:
        """Let what `ask` gives run, which hands over what it hears."""
        self._task = submit(self._run(ask))
        self._task.add_done_callback(lambda task: self._on_end(not task.cancelled() and self._succeeded))
        return self

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> Answer:
        with self._changed:
            self._changed.wait_for(lambda: self._heard is not None or self._is_over or self._is_closed)
            heard, self._heard = self._heard, None
            if self._is_closed or (heard is None and self._error is None):
                raise StopIteration
            if heard is None and self._error is not None:
                error, self._error = self._error, None
                raise error
            is_last = self._is_over and self._error is None
        assert heard is not None
        seconds = time.monotonic() - self._started
        return heard.answer(self._served.boxes, self._size, seconds=seconds, is_last=is_last)

    def close(self) -> None:
        """See Stream."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        if self._task is not None:
            self._task.cancel()

    def hear(self) -> None:
        """Hand over what has been heard."""
        with self._changed:
            self._heard = self._reading.heard
            self._changed.notify_all()

    async def _run(self, ask: Ask) -> None:
        error: BaseException | None = None
        try:
            await ask()
            self._succeeded = True
        except asyncio.CancelledError:
            error = ServerFailed("The program is being stopped.")  # seen only by who did not close it
            raise
        except BaseException as raised:
            error = raised
        finally:
            with self._changed:
                self._error = error
                self._is_over = True
                if error is None:
                    self._heard = self._reading.heard
                self._changed.notify_all()


async def ask(
    client: httpx.AsyncClient,
    served: ServedElsewhere,
    make_body: Callable[[], tuple[dict[str, Any], dict[str, str]]],
    reading: Reading,
    hear: Callable[[], None],
) -> None:
    """Post a question and read its answer to the end. `make_body` gives body and headers, in a thread of its own.

    Raises MiniVLMError for what goes wrong there or on the way, also in the middle.
    """
    where, patience = served.where, served.config.timeout
    body, headers = await asyncio.to_thread(make_body)
    content = await asyncio.to_thread(lambda: json.dumps(body).encode())
    try:
        async with asyncio.timeout(patience) as clock:
            request = client.stream(
                "POST",
                f"{where}/chat/completions",
                content=content,
                headers={"content-type": "application/json", **headers},
            )
            async with request as response:

                def progress() -> None:
                    clock.reschedule(asyncio.get_running_loop().time() + patience)
                    hear()

                await _read(response, served, reading, progress)
    except TimeoutError as error:
        raise ServerFailed(f"{where} sent no new text for {patience:g} seconds; the question was given up.") from error
    except httpx.ConnectTimeout as error:
        raise ServerFailed(f"{where} can't be reached: connecting took too long.") from error
    except httpx.ConnectError as error:
        raise no_connection(where, error) from error
    except httpx.HTTPError as error:
        raise _cut(where, reading, str(error) or type(error).__name__) from error


async def _read(
    response: httpx.Response, served: ServedElsewhere, reading: Reading, progress: Callable[[], None]
) -> None:
    where, key = served.where, served.config.server_key
    if response.status_code != 200:
        raise http_error(
            response.status_code,
            await _beginning(response, MAX_ERROR),
            where=where,
            retry_after=response.headers.get("retry-after", ""),
            location=response.headers.get("location", ""),
            key=key,
        )
    kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json":  # of servers that do not stream
        reading.take_whole((await _beginning(response, MAX_BYTES)).decode("utf-8", "replace"))
        if reading.is_too_long:
            reading.cut()
        return
    if kind != "text/event-stream":
        raise ServerFailed(f"{where} answered with {kind or 'something'} instead of a stream; is it an API's address?")
    async for data in events(response.aiter_raw(), where=where):
        if reading.take_event(data):
            progress()
        if reading.is_too_long:
            reading.cut()
        if reading.heard.is_done:
            return
    if reading.heard.finish_reason is None:
        raise _cut(where, reading, "its stream ended")


async def _beginning(response: httpx.Response, most: int) -> bytes:
    body = b""
    async for piece in response.aiter_raw():
        body += piece
        if len(body) > most:
            return body[:most]
    return body


def _cut(where: str, reading: Reading, reason: str) -> MiniVLMError:
    when = "in the middle of the answer" if reading.heard.text else "before the answer began"
    return ServerFailed(f"The connection to {where} was lost {when} ({reason}). Ask again.")
