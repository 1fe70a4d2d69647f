"""The body of a request: limited in size, time and shape before anything is made of it."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

from fastapi import Request
from pydantic import TypeAdapter, ValidationError

from app.api.openai.api_errors import ApiError

MAX_BYTES = 40 * 2**20  # of one body; base64 makes a picture a third larger
MAX_SECONDS = 120.0  # for one body to arrive
DRAIN_SECONDS = 10.0  # for the rest of one that is too large: a client reads no answer before it has sent everything
MAX_VALUES = 100_000  # in one body: a byte of JSON can become a hundred bytes of memory
MAX_HELD = 2**30  # bytes of bodies and pictures of all requests

_OBJECT = TypeAdapter(dict[str, Any])  # its parser refuses more than 200 levels, and text that is not Unicode


class Budget:
    """Bytes that all requests together may hold."""

    def __init__(self, limit: int = MAX_HELD) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self.held = 0

    def take(self, count: int) -> None:
        """Raises ApiError 429 if there are not so many left."""
        with self._lock:
            if self.held + count > self._limit:
                raise ApiError(429, "Other requests' pictures fill the memory; ask again in a moment.", code="busy")
            self.held += count

    def give_back(self, count: int) -> None:
        """No longer held."""
        with self._lock:
            self.held -= count


async def read_json(request: Request, budget: Budget) -> dict[str, Any]:
    """The body as an object. Raises ApiError 400, 408, 413 or 429."""
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > MAX_BYTES:
        if request.headers.get("expect", "").lower() != "100-continue":
            await _drain(request)
        raise _too_large()
    pieces: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(MAX_SECONDS):
            async for piece in request.stream():
                if size + len(piece) > MAX_BYTES:
                    break
                budget.take(len(piece))
                size += len(piece)
                pieces.append(piece)
            else:
                return await asyncio.to_thread(parse_object, b"".join(pieces))
    except TimeoutError as error:
        raise ApiError(
            408, f"The request took more than {MAX_SECONDS:.0f} seconds to arrive.", code="timeout"
        ) from error
    finally:
        budget.give_back(size)
    await _drain(request)
    raise _too_large()


def parse_object(body: bytes) -> dict[str, Any]:
    """JSON as an object. Raises ApiError 400 for anything else, and for what is nested or split up too much."""
    if body.count(b",") + body.count(b"{") + body.count(b"[") > MAX_VALUES:
        raise ApiError(400, f"The body holds more than {MAX_VALUES} values.", code="too_many_values")
    try:
        return _OBJECT.validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        reason = str(first.get("ctx", {}).get("error", "it must be an object"))
        raise ApiError(400, f"The body can't be read as JSON: {reason}.", code="invalid_json") from error


def _too_large() -> ApiError:
    limit = MAX_BYTES // 2**20
    return ApiError(413, f"The body is larger than {limit} MiB. Scale the pictures down.", code="body_too_large")


async def _drain(request: Request) -> None:
    try:
        async with asyncio.timeout(DRAIN_SECONDS):
            async for _ in request.stream():
                pass
    except (TimeoutError, RuntimeError):  # RuntimeError: part of the stream was read before
        pass
