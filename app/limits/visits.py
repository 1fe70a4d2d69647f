"""Visits: which browser a session belongs to, and which sessions may make the server keep something.

Gradio's page makes up the name of its session in the browser, and gradio believes any name. Here the page comes with a
signed cookie, the visit. A session is bound to the visit that named it first; others can't use it. Each visit, each
client and all together have a number of sessions; beyond it the oldest idle session of the same visit, or of the same
client, makes room, and never a stranger's while they have one themselves.

Programs have no cookie. What they call is public and keeps no conversation; their sessions belong to their address.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from app.limits.budgets import has_its_part
from app.limits.policy import Limits
from app.limits.refusal import Refused
from engine.asker import Asker

# The second is for pages that came by TLS: without it a browser does not send it, and nobody else may put one there.
COOKIES = ("minivlm-visit", "__Host-minivlm-visit")
_SESSION = re.compile(r"[A-Za-z0-9_-]{1,64}")
TOO_MANY_WAITING = "Too many questions are waiting already. Try again once some are answered."
NO_VISIT = "This page was opened before the server started, or without its cookie. Load it again."


class KeptSessions(Protocol):
    """What gradio keeps for each session."""

    def is_answering(self, session: str) -> bool:
        """Whether a question of the session is waiting or being answered."""

    def num_unanswered(self, session: str) -> int:
        """How many questions of the session wait or are being answered."""

    def forget(self, session: str) -> None:
        """Free everything kept for it."""


@dataclass(eq=False)
class Session:
    """One tab of a browser, or one program."""

    name: str
    visit: str
    client: str
    last_used: float
    streams: int = 0  # that are open now: the page is there


@dataclass(eq=False)
class Visits:
    """All sessions, oldest use first, with the signature of the visits."""

    limits: Limits
    kept: KeptSessions
    clock: Callable[[], float] = time.monotonic
    sessions: OrderedDict[str, Session] = field(default_factory=OrderedDict)
    secret: bytes = field(default_factory=lambda: secrets.token_bytes(32))
    _asking: list[Session] = field(default_factory=list)  # those of the questions that are being sent

    def new_visit(self) -> str:
        """The value of a cookie that `visit_of` knows."""
        number = secrets.token_urlsafe(12)
        return f"{number}.{self._signature(number)}"

    def visit_in(self, cookies: Mapping[str, str]) -> str | None:
        """The visit of a request with these cookies, None where none of them is ours."""
        return next(filter(None, (self.visit_of(cookies.get(name)) for name in COOKIES)), None)

    def visit_of(self, cookie: str | None) -> str | None:
        """The visit of a cookie's value, None where it is missing or not ours."""
        number, dot, signature = (cookie or "").partition(".")
        own = self._signature(number).encode()
        return number if dot and hmac.compare_digest(signature.encode("utf-8", "replace"), own) else None

    def _signature(self, number: str) -> str:
        return hmac.new(self.secret, number.encode("utf-8", "replace"), hashlib.sha256).hexdigest()[:32]

    def use(self, name: object, visit: str, client: str) -> Session:
        """The session of this name, made and bound to the visit if it is new. Raises Refused."""
        if not isinstance(name, str) or not _SESSION.fullmatch(name):
            raise Refused(400, "The request names no session.")
        session = self.sessions.get(name)
        if session is None:
            self.make_room(visit, client)
            session = self.sessions[name] = Session(name, visit, client, self.clock())
        elif session.visit != visit:
            raise Refused(403, "That session belongs to another visit.")
        session.last_used = self.clock()
        self.sessions.move_to_end(name)
        return session

    def of_visit(self, visit: str) -> list[Session]:
        """Its sessions, the one that was idle longest first."""
        return [session for session in self.sessions.values() if session.visit == visit]

    def of_client(self, client: str) -> list[Session]:
        """All sessions of an address, the one that was idle longest first."""
        return [session for session in self.sessions.values() if session.client == client]

    def make_room(self, visit: str, client: str) -> None:
        """See that one more session is within the limits, whichever idle one has to go. Raises Refused."""
        limits = self.limits
        own = self.of_visit(visit)
        if len(own) >= limits.sessions_per_visit and not self._forget_one(own):
            raise Refused(429, "This browser has too many pages of this server open; close some.", retry_after=10)
        neighbours = self.of_client(client)
        num = Counter(Asker(one.client, one.visit) for one in neighbours)
        neighbours.sort(key=lambda one: -num[Asker(client, one.visit)])  # whoever has most of them makes room first
        is_full = len(neighbours) >= limits.sessions_per_client and not self._forget_one(neighbours)
        if is_full and has_its_part(num, Asker(client, visit), limits.sessions_per_client):
            raise Refused(429, "Too many pages are open from this address; close some.", retry_after=10)
        if len(self.sessions) >= limits.sessions and not self._forget_one(list(self.sessions.values())):
            raise Refused(503, "The server has as many visitors as it can take. Try again later.", retry_after=30)

    def _forget_one(self, sessions: list[Session]) -> bool:
        """Forget the first that nobody looks at or waits for; whether there was one."""
        idle = (one for one in sessions if not one.streams and not self.kept.is_answering(one.name))
        session = next(idle, None)
        if session is not None:
            self.forget(session)
        return session is not None

    def forget(self, session: Session) -> None:
        """Free all that is kept for a session."""
        self.sessions.pop(session.name, None)
        self.kept.forget(session.name)

    def forget_old(self) -> None:
        """Forget sessions whose page has been gone for their time to live; called now and then."""
        old = self.clock() - self.limits.session_seconds
        for session in list(self.sessions.values()):
            if session.streams or self.kept.is_answering(session.name):
                session.last_used = self.clock()
            elif session.last_used < old:
                self.forget(session)

    @contextmanager
    def asking(self, session: Session) -> Iterator[None]:
        """For the time of a request that asks a question: until the answer to it, nobody else counts that.

        Raises Refused where enough of them wait: of this visit; of this client, where the visit has as many as would be
        its part if all of that client had the same; or of all, where the client has its part of the places in the same
        sense, and the visit of that part.
        """
        limits, of_visit, of_client = self.limits, 0, defaultdict[str, Counter[Asker]](Counter)
        asked = ((one, self.kept.num_unanswered(one.name)) for one in self.sessions.values())
        for one, number in (*asked, *((one, 1) for one in self._asking)):
            if number:
                of_client[one.client][Asker(one.client, one.visit)] += number
                of_visit += number * (one.visit == session.visit)
        asker, own = Asker(session.client, session.visit), of_client[session.client]
        total = sum(asks.total() for asks in of_client.values())
        part = limits.waiting / len(of_client) if total >= limits.waiting else limits.waiting_per_client
        most = min(part, limits.waiting_per_client)
        if of_visit >= limits.waiting_per_visit or has_its_part(own, asker, most):
            raise Refused(429, TOO_MANY_WAITING, retry_after=5)
        self._asking.append(session)
        try:
            yield
        finally:
            self._asking.remove(session)


def new_cookie(value: str, *, is_third: bool, has_tls: bool) -> str:
    """The header that gives a visit to a browser; `is_third` where pages of other sites frame this one."""
    if is_third:
        return f"{COOKIES[0]}={value}; Path=/; HttpOnly; SameSite=None; Secure; Partitioned"
    return f"{COOKIES[has_tls]}={value}; Path=/; HttpOnly; SameSite=Lax{'; Secure' * has_tls}"
