"""The page, the descriptions of it, and its scripts and styles, made and packed once for all visitors.

Gradio copies and searches its description of the page for each request, and packs each script anew, tens of
milliseconds in which nobody else is served. But for the server's name, under which the request came, and for who is
logged in, it is the same each time. The name is put in between packed pieces: there may be any number of names.
"""

from __future__ import annotations

import asyncio
import re
import struct
import zlib
from collections import OrderedDict
from dataclasses import dataclass
from typing import NamedTuple, TypeVar
from urllib.parse import parse_qsl

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.limits.addresses import header
from app.limits.bodies import replay
from app.limits.gradio_app import GradioApp, cookies_of
from app.limits.refusal import Refused

PATHS = ("", "/config", "/gradio_api/info")
KEPT = 32  # pages by name and login
T = TypeVar("T")
PLACE_OF_NAME = b"http://name-of-this-server.invalid"
_NAME = re.compile(r"[A-Za-z0-9._-]+(:\d{1,5})?|\[[0-9A-Fa-f:.]+\](:\d{1,5})?")
_ASSET = re.compile(r"/assets/[\w@-][\w.@-]*", re.ASCII)  # gradio's own files, 19 MB in all; no second way to write one
_GZIP_HEAD = b"\x1f\x8b\x08" + bytes(6) + b"\xff"
_LAST_BLOCK = b"\x03\x00"


class _Wanted(NamedTuple):
    edition: object
    path: str
    query: bytes
    user: str
    cookie: bytes  # with which this user has logged in

    @property
    def is_asset(self) -> bool:
        """Whether it is one of the page's files, the same for everybody."""
        return self.path.startswith("/assets/")

    @property
    def key(self) -> tuple[object, ...]:
        return self[:-1]


@dataclass(frozen=True)
class _Made:
    """An answer; its text is cut where the server's name belongs, and packed so that a name can stand between."""

    headers: tuple[tuple[bytes, bytes], ...]
    pieces: tuple[bytes, ...]
    packed: tuple[bytes, ...]

    def gzipped(self, name: bytes) -> bytes:
        """The text with this name, of less than 64 KiB, as a gzip file."""
        text = name.join(self.pieces)
        between = struct.pack("<BHH", 0, len(name), len(name) ^ 0xFFFF) + name  # a block that is not packed
        end = struct.pack("<II", zlib.crc32(text), len(text))
        return _GZIP_HEAD + between.join(self.packed) + _LAST_BLOCK + end


class KeptPages:
    """Serves pages and what belongs to them; what can't be kept comes from the program behind, and unpacked."""

    def __init__(self, gradio: GradioApp) -> None:
        self._gradio = gradio
        self._pages: OrderedDict[object, _Made] = OrderedDict()
        self._assets: dict[str, _Made] = {}
        self._making = asyncio.Lock()

    async def serve(self, inside: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        """As `inside`, for a request that may ask for one of PATHS. Raises Refused where the server's name is none."""
        wanted, made, name = self._wanted(scope), None, b""
        if wanted is not None:
            name = b"" if wanted.is_asset else _origin_of(scope)
            made = self._kept(wanted)
            if made is None:  # nobody waits for what is there while others have something made
                async with self._making:
                    made = self._kept(wanted) or await self._make(inside, scope, wanted)
        if made is None:
            await inside(without_packing(scope), receive, send)
            return
        headers = [*made.headers, (b"vary", b"accept-encoding")]
        if "gzip" in (header(scope, b"accept-encoding") or ""):
            body = made.gzipped(name)
            headers.append((b"content-encoding", b"gzip"))
        else:
            body = name.join(made.pieces)
        headers.append((b"content-length", str(len(body)).encode()))
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def _kept(self, wanted: _Wanted) -> _Made | None:
        return self._assets.get(wanted.path) if wanted.is_asset else self._pages.get(wanted.key)

    def _wanted(self, scope: Scope) -> _Wanted | None:
        """What the page depends on beside the server's name; None where it is none of PATHS."""
        if _ASSET.fullmatch(scope["path"]):
            return _Wanted(None, scope["path"], b"", "", b"")
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

        async def stay() -> Message:
            never: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
            return await never  # whoever asks does not leave before the end

        async def take(message: Message) -> None:
            parts.append(message)

        await inside(asked, replay(b"", stay), take)
        names = (b"content-length", b"vary")
        told = tuple(item for item in parts[0]["headers"] if item[0].lower() not in names)
        if parts[0]["status"] != 200 or any(name.lower() in (b"set-cookie", b"content-encoding") for name, _ in told):
            return None
        pieces = b"".join(part.get("body", b"") for part in parts[1:]).split(PLACE_OF_NAME)
        made = _Made(told, tuple(pieces), tuple(await asyncio.to_thread(list, map(_packed, pieces))))
        if wanted.is_asset:
            self._assets[wanted.path] = made
            return made
        return _keep(self._pages, wanted.key, made)


def _keep(kept: OrderedDict[object, T], key: object, value: T) -> T:
    kept[key] = value
    while len(kept) > KEPT:
        kept.popitem(last=False)
    return value


def _packed(text: bytes) -> bytes:
    """Blocks of deflate that end with a whole byte and lead to no others."""
    packer = zlib.compressobj(6, zlib.DEFLATED, -zlib.MAX_WBITS)
    return packer.compress(text) + packer.flush(zlib.Z_FULL_FLUSH)


def without_packing(scope: Scope) -> Scope:
    """The same request of somebody who takes no packed answers: to pack one anew each time takes long."""
    return {**scope, "headers": [item for item in scope["headers"] if item[0] != b"accept-encoding"]}


def _origin_of(scope: Scope) -> bytes:
    """Under which address the server was asked for this. Raises Refused for a name that is none."""
    forwarded = (header(scope, b"x-forwarded-host") or "").split(",")[0].strip()  # only trusted proxies' is left
    name = forwarded or header(scope, b"host") or ""
    is_secure = (scope["scheme"] == "https" and not forwarded) or header(scope, b"x-forwarded-proto") == "https"
    if not _NAME.fullmatch(name):
        raise Refused(400, "The request names no server.")
    return f"http{'s' * is_secure}://{name}".encode()
