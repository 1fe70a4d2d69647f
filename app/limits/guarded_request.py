"""One request on its way through the layer: who sent it, its body, and what the layer reads of the answer to it."""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import parse_qs

from starlette.types import Message, Receive, Scope, Send

from app.limits.addresses import header
from app.limits.bodies import LimitedBody, check_length
from app.limits.budgets import OPENING
from app.limits.gradio_app import cookies_of
from app.limits.policy import KIB, MIB, Limits
from app.limits.refusal import Refused
from app.limits.route_kinds import Kind, RouteMatch
from engine.asker import Asker

_ONE_RANGE = re.compile(rb"bytes=\d{1,12}-\d{0,12}")
PIECE = 256 * KIB  # of an answer: the next one is sent once most of those before it were read
DENIED = {  # what it means that the program behind answers so
    (Kind.LOGIN, 400): "Wrong name or password.",
    (Kind.API, 401): "A key is missing or wrong.",
    (Kind.API, 403): "Pages of other sites may not ask here.",
}
CAPTURED_BYTES = 1 * MIB  # of an answer that the layer reads along: names of uploads or of a call


class GuardedRequest:
    """One request on its way through the layer."""

    def __init__(self, scope: Scope, client: str, receive: Receive) -> None:
        self.scope = scope
        self.client = client
        self.visit: str | None = None  # whose signed cookie came with it
        self.raw_receive = self.receive = receive
        self.route = RouteMatch(Kind.STATIC)
        self.headers: list[tuple[bytes, bytes]] = []  # that the answer gets
        self.send: Send | None = None
        self.body: LimitedBody | None = None
        self.on_answer: Callable[[int, bytes], None] | None = None  # hears status and body of the answer
        self.on_status: Callable[[int], None] | None = None
        self.denied: Refused | None = None  # by the program behind, which has told its sender: for the log
        self._status, self._captured = 0, b""
        self.cookies = cookies_of(header(scope, b"cookie"))
        kept = [item for item in scope["headers"] if item[0] != b"cookie"]  # others are read by nobody behind
        if self.cookies:
            kept.append((b"cookie", "; ".join("=".join(cookie) for cookie in self.cookies.items()).encode()))
        scope["headers"] = kept

    @property
    def asker(self) -> Asker:
        """Whom it counts for: a browser, or all that came from this address without a cookie."""
        return Asker(self.client, self.visit or "")

    @property
    def payer(self) -> Asker:
        """In whose line it waits: who opens the page is no part of the crowd without a cookie."""
        return Asker(self.client, OPENING) if self.visit is None and self.scope["path"] == "/" else self.asker

    @property
    def refused(self) -> Refused | None:
        """Why its body was not read on, should the program behind have taken that for an error of its own."""
        return self.body.refused if self.body is not None else None

    @property
    def has_tls(self) -> bool:
        """Whether the client came by TLS, to this server or to a trusted proxy."""
        return str(self.scope["scheme"]) == "https"

    @property
    def has_unread_body(self) -> bool:
        """Whether its sender may still be sending."""
        if self.body is not None:
            return not self.body.is_complete
        return (
            header(self.scope, b"transfer-encoding") is not None
            or (header(self.scope, b"content-length") or "0") != "0"
        )

    def check_framing(self) -> None:
        """Raise Refused where the body's end is said in two ways: a proxy may have gone by the other one, and what
        comes behind it is for us a request that nobody has looked at."""
        if all(header(self.scope, name) is not None for name in (b"transfer-encoding", b"content-length")):
            raise Refused(400, "The request says in two ways how long it is.")

    async def watched_send(self, message: Message) -> None:
        """Send the answer; what it says is given to `on_answer` at its end."""
        assert self.send is not None
        if message["type"] == "http.response.start":
            status = message["status"]
            if (reason := DENIED.get((self.route.kind, status))) is not None:
                self.denied = Refused(status, reason)
            if self.on_status is not None:
                self.on_status(status)
        if self.on_answer is not None:
            if message["type"] == "http.response.start":
                self._status = message["status"]
            elif len(self._captured) < CAPTURED_BYTES:
                self._captured += message.get("body", b"")
                if not message.get("more_body", False):
                    self.on_answer(self._status, self._captured)
        body = message.get("body", b"")
        if len(body) <= PIECE:
            await self.send(message)
            return
        for begin in range(0, len(body), PIECE):  # or all of it would wait in memory after the request has ended
            is_last = begin + PIECE >= len(body)
            more = bool(message.get("more_body", False)) or not is_last
            await self.send({**message, "body": body[begin : begin + PIECE], "more_body": more})

    def limited(self, limits: Limits, size: int, count: Callable[[bytes], None]) -> LimitedBody:
        """Read the body within limits from here on. Raises Refused for an announced length over the limit."""
        check_length(self.scope, size)
        self.body = LimitedBody(self.raw_receive, limits, size, count)
        self.receive = self.body
        return self.body

    def in_one_piece(self) -> None:
        """Ask for all of a file where more than one piece of it is asked for, or none: gradio fails over that."""
        kept = [item for item in self.scope["headers"] if item[0] != b"range" or _ONE_RANGE.fullmatch(item[1])]
        self.scope["headers"] = kept

    def uncompressed(self) -> None:
        """Ask for an answer that can be read along, or that is not packed anew each time."""
        self.scope["headers"] = [item for item in self.scope["headers"] if item[0] != b"accept-encoding"]

    def parameter(self, name: str) -> str:
        """A value of the query string, empty where it is missing."""
        return parse_qs(self.scope["query_string"].decode("latin-1"), max_num_fields=16).get(name, [""])[0]
