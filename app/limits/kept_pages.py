"""The page and the descriptions of it, made once for all visitors.

Gradio copies and searches its description of the page for each request, tens of milliseconds in which nobody else is
served. But for the server's name, under which the request came, and for who is logged in, it is the same each time.
"""

from __future__ import annotations

import asyncio
import gzip
import re
from collections import OrderedDict
from dataclasses import dataclass
from typing import NamedTuple, TypeVar
from urllib.parse import parse_qsl

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.limits.addresses import header
from app.limits.gradio_app import GradioApp, cookies_of
from app.limits.refusal import Refused

PATHS = ("", "/config", "/gradio_api/info")
KEPT = 32  # pages by name and login, and as many packed ones
PLACE_OF_NAME = b"http://name-of-this-server.invalid"
T = TypeVar("T")
_NAME = re.compile(r"[A-Za-z0-9._-]+(:\d{1,5})?|\[[0-9A-Fa-f:.]+\](:\d{1,5})?")


class _Wanted(NamedTuple):
    edition: object
    path: str
    query: bytes
    user: str
    cookie: bytes  # with which this user has logged in

    @property
    def key(self) -> tuple[object, ...]:
        return self[:-1]


@dataclass(frozen=True)
class _Made:
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes  # with PLACE_OF_NAME


class KeptPages:
    """Serves pages and descriptions; what can't be kept comes from the program behind as ever."""

    def __init__(self, gradio: GradioApp) -> None:
        self._gradio = gradio
        self._made: OrderedDict[object, _Made] = OrderedDict()
        self._packed: OrderedDict[object, bytes] = OrderedDict()
        self._making = asyncio.Lock()

    async def serve(self, inside: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        """As `inside`, for a request that may ask for one of PATHS. Raises Refused where the server's name is none."""
        origin, wanted, made = _origin_of(scope), self._wanted(scope), None
        if wanted is not None:
            async with self._making:
                made = self._made.get(wanted.key) or await self._make(inside, scope, wanted)
        if wanted is None or made is None:
            await inside(scope, receive, send)
            return
        headers = [*made.headers, (b"vary", b"accept-encoding")]
        body = made.body.replace(PLACE_OF_NAME, origin)
        if "gzip" in (header(scope, b"accept-encoding") or ""):
            body = await self._pack((*wanted.key, origin), body)
            headers.append((b"content-encoding", b"gzip"))
        headers.append((b"content-length", str(len(body)).encode()))
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def _wanted(self, scope: Scope) -> _Wanted | None:
        """What the page depends on beside the server's name; None where it is none of PATHS."""
        path = scope["path"].rstrip("/")
        if path not in PATHS:
            return None
        asked = dict(parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True))
        query = b"page=" if asked.get("page") == "" else b""  # there is one page, whose name is empty
        if asked.get("all_endpoints"):
            query += b"&all_endpoints=1"
        login = self._gradio.login_of(cookies_of(header(scope, b"cookie")))
        return _Wanted(self._gradio.edition, path, query, *login)

    async def _make(self, inside: ASGIApp, scope: Scope, wanted: _Wanted) -> _Made | None:
        """Ask for it with nothing that the visitor has written; None where it is not there."""
        headers = [(b"host", PLACE_OF_NAME.removeprefix(b"http://")), (b"cookie", wanted.cookie)]
        asked = {**scope, "method": "GET", "scheme": "http", "path": wanted.path or "/", "headers": headers}
        asked |= {"query_string": wanted.query, "raw_path": (wanted.path or "/").encode()}
        parts: list[Message] = []

        async def receive() -> Message:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def take(message: Message) -> None:
            parts.append(message)

        await inside(asked, receive, take)
        names = (b"content-length", b"vary")
        told = tuple(item for item in parts[0]["headers"] if item[0].lower() not in names)
        if parts[0]["status"] != 200 or any(name.lower() in (b"set-cookie", b"content-encoding") for name, _ in told):
            return None
        made = _Made(told, b"".join(part.get("body", b"") for part in parts[1:]))
        return _keep(self._made, wanted.key, made)

    async def _pack(self, key: object, body: bytes) -> bytes:
        return self._packed.get(key) or _keep(self._packed, key, await asyncio.to_thread(gzip.compress, body, 6))


def _keep(kept: OrderedDict[object, T], key: object, value: T) -> T:
    kept[key] = value
    while len(kept) > KEPT:
        kept.popitem(last=False)
    return value


def _origin_of(scope: Scope) -> bytes:
    """Under which address the server was asked for this. Raises Refused for a name that is none."""
    forwarded = (header(scope, b"x-forwarded-host") or "").split(",")[0].strip()  # only trusted proxies' is left
    name = forwarded or header(scope, b"host") or ""
    is_secure = (scope["scheme"] == "https" and not forwarded) or header(scope, b"x-forwarded-proto") == "https"
    if not _NAME.fullmatch(name):
        raise Refused(400, "The request names no server.")
    return f"http{'s' * is_secure}://{name}".encode()
