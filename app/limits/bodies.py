"""Bodies of requests: read within a size and a time, so that nobody makes the server hold much, or wait for long."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Callable
from typing import Any

from starlette.types import Message, Receive, Scope

from app.limits.addresses import header
from app.limits.policy import MIB, Limits
from app.limits.refusal import Refused

MAX_DEPTH = 64  # of JSON: the page's own has 10
MAX_PARTS = 20_000  # brackets and commas; each becomes an object of some hundred bytes, several times over
MAX_DIGITS = 300  # of a number, more than any that can be used
DRAIN_SECONDS, DRAIN_BYTES = 2.0, 32 * MIB  # of a refused body: who is still sending would not read the answer

# A string may lack its end: tried again from each quote in it, it would take the square of its length.
_STRING_OR_STRUCTURE = re.compile(r'"(?:[^"\\]++|\\.)*+"?|([\[\]{},])', re.DOTALL)


class LimitedBody:
    """A `receive` that refuses a body over `limit` bytes, or one too slow. `count` hears every part of it."""

    def __init__(self, receive: Receive, limits: Limits, limit: int, count: Callable[[bytes], None]) -> None:
        self._receive = receive
        self._limits = limits
        self._limit = limit
        self._count = count
        self._begun = time.monotonic()
        self.size = 0
        self.is_complete = False
        self.refused: Refused | None = None  # what was raised, should the program behind have taken it for an error

    async def __call__(self) -> Message:
        if self.is_complete:
            return await self._receive()  # waits for the end of the connection, which may take as long as the answer
        allowed = self._limits.body_seconds + self.size / self._limits.body_rate
        left = self._begun + allowed - time.monotonic()  # and no pause longer than the first
        try:
            message = await asyncio.wait_for(self._receive(), min(max(left, 0.0), self._limits.body_seconds))
        except TimeoutError:
            raise self._refuse(Refused(408, "The request came too slowly.")) from None
        if message["type"] != "http.request":
            self.is_complete = True
            return message
        part = message.get("body", b"")
        self.size += len(part)
        self.is_complete = not message.get("more_body", False)
        if self.size > self._limit:
            raise self._refuse(too_large(self._limit))
        try:
            self._count(part)
        except Refused as refused:
            raise self._refuse(refused) from None
        return message

    def _refuse(self, refused: Refused) -> Refused:
        self.refused = refused
        return refused

    async def read(self) -> bytes:
        """The whole body. Raises Refused, also when its sender left in the middle of it."""
        parts: list[bytes] = []
        while not self.is_complete:
            message = await self()
            if message["type"] != "http.request":
                raise Refused(400, "The request ended too early.")
            parts.append(message.get("body", b""))
        return b"".join(parts)


def too_large(limit: int) -> Refused:
    """What is said about a body over the limit."""
    shown = f"{limit // MIB} MiB" if limit >= MIB else f"{limit // 1024} KiB"
    return Refused(413, f"The request is too large; the limit is {shown}.")


def check_length(scope: Scope, limit: int) -> int:
    """The announced length, 0 where none is announced. Raises Refused if it is over the limit or no length."""
    text = header(scope, b"content-length")
    if text is None:
        return 0
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise Refused(400, "The request's length is no number.")
    if int(text) > limit:
        raise too_large(limit)
    return int(text)


def replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives a body which was read already, and then whatever comes."""
    given = False

    async def receive_again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receive_again


async def drain(receive: Receive) -> None:
    """Read the rest of a refused body for a moment, and throw it away."""
    size, deadline = 0, time.monotonic() + DRAIN_SECONDS
    while size < DRAIN_BYTES and (left := deadline - time.monotonic()) > 0:
        try:
            message = await asyncio.wait_for(receive(), left)
        except TimeoutError:
            return
        if message["type"] != "http.request" or not message.get("more_body", False):
            return
        size += len(message.get("body", b""))


def parse_object(body: bytes) -> dict[str, Any]:
    """The JSON object in a body. Raises Refused for anything else: too deep, odd numbers, characters that are none."""
    try:
        text = body.decode("utf-8")
        _check_structure(text)
        value = json.loads(text, parse_int=_integer, parse_constant=_no_number)
        json.dumps(value, ensure_ascii=False).encode("utf-8")  # a lone surrogate is no character
    except (ValueError, RecursionError):
        raise Refused(400, "The request is not JSON that can be used.") from None
    if not isinstance(value, dict):
        raise Refused(400, "The request is not a JSON object.")
    return value


def _integer(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(digits[:20])
    return int(digits)


def _no_number(name: str) -> float:
    raise ValueError(name)  # NaN and the infinities


def _check_structure(text: str) -> None:
    """Look at the brackets and commas alone, before anything is made of them.

    Not at all of them, and not for text that has few even if those in strings are counted, as nobody else is served
    meanwhile: a body of 4 MiB took 60 ms.
    """
    opening = text.count("[") + text.count("{")
    if opening <= MAX_DEPTH and opening + text.count("]") + text.count("}") + text.count(",") <= MAX_PARTS:
        return
    depth = parts = 0
    for found in _STRING_OR_STRUCTURE.finditer(text):
        char = found[1]
        if char is None:
            continue
        parts += 1
        depth += (char in "[{") - (char in "]}")
        if parts > MAX_PARTS:
            raise Refused(400, "The request has too many parts.")
        if depth > MAX_DEPTH:
            raise Refused(400, f"The request is nested more than {MAX_DEPTH} deep.")
