"""Whether a request is served: what each kind of request is checked for, and which budget it counts against."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import Any

from app.limits.addresses import SCOPE_KEY, guesser_of, header
from app.limits.bodies import check_length, parse_object, replay
from app.limits.budgets import AddressRate, Gauge, Rate
from app.limits.fair_queue import Lanes
from app.limits.gradio_app import GradioApp
from app.limits.guarded_request import GuardedRequest
from app.limits.policy import KIB, Limits
from app.limits.refusal import Refused
from app.limits.route_kinds import CALLS, FILES, OPEN, STREAMS, Kind
from app.limits.upload_forms import FILES_OF_A_FORM
from app.limits.uploads import UploadFolder
from app.limits.visits import NO_VISIT, TOO_MANY_WAITING, Session, Visits, new_cookie
from engine.asker import ASKER, Asker

QUERY_BYTES = 4096
COSTS = {Kind.PAGE: 4.0, Kind.INFO: 4.0}  # more requests' worth: they are long
BYTES_OF_A_REQUEST = 64 * KIB  # of JSON, which is read while everybody waits: so much more counts as one more request
COST_OF_REFUSED = 5.0
PAUSE = 1.0  # seconds that an answer of 429 takes: who does not heed it gets no more of them than that
KEYS = (b"authorization", b"x-api-key", b"x-moondream-auth")  # the headers that they come in
BUSY = "Too many requests from this address. Wait a moment."


class RequestChecks:
    """The budgets of all clients, and the checks of every kind of request."""

    def __init__(
        self, gradio: GradioApp, limits: Limits, visits: Visits, uploads: UploadFolder, *, secure_cookie: bool
    ) -> None:
        self._gradio, self._limits = gradio, limits
        self._visits, self._uploads = visits, uploads
        self._secure_cookie = secure_cookie
        self._requests = AddressRate(limits.requests_per_second, limits.requests_at_once)
        self._calls = Rate(limits.calls_per_second, limits.calls_at_once)
        self._presses = Lanes(limits.presses_at_once, limits.presses_waiting)
        self._presses_of_client = Lanes(limits.presses_per_client, limits.connections_per_client)
        self._new_visits = Rate(limits.visits_per_minute / 60, limits.visits_per_minute)
        self._logins = Rate(limits.logins_per_minute / 60, limits.logins_per_minute)
        self._bytes = AddressRate(limits.upload_bytes_per_hour / 3600, limits.upload_bytes_per_hour)
        self._streams = Gauge(limits.streams_per_client)
        self._api_calls = Gauge(limits.waiting_per_client)
        self._last_upload: dict[str, float] = {}
        self._buffered = 0

    async def count(self, request: GuardedRequest, cost: float = 1.0) -> None:
        """Count a request, whatever it is for. Raises Refused once they are too many, and not at once.

        Who comes without a cookie may open the page while new visits are let in, whatever else came without one.
        """
        asker = request.asker
        if self._requests.take(asker, cost):
            return
        if not asker.visit and request.scope["path"] == "/" and self._new_visits.left(asker.client) >= 1:
            return
        await asyncio.sleep(PAUSE)
        raise Refused(429, BUSY, retry_after=self._requests.seconds_until(asker, cost))

    def count_refused(self, request: GuardedRequest) -> None:
        """Charge a client for a request that was refused, which is work, too; never more than its budget has left."""
        self._requests.use(request.asker, min(COST_OF_REFUSED, max(0.0, self._requests.left(request.asker))))

    @asynccontextmanager
    async def admitted(self, request: GuardedRequest) -> AsyncIterator[None]:
        """Check and count a request, for as long as it is served. Raises Refused."""
        kind = request.route.kind
        if kind in COSTS:
            await self.count(request, COSTS[kind])
        if len(request.scope["query_string"]) > QUERY_BYTES:
            raise Refused(414, "The address of the request is too long.")
        self._check_login(request)
        asker = self._name_asker(request)
        async with AsyncExitStack() as stack:
            if kind in STREAMS:
                stack.enter_context(self._streams.held(asker, "Too many streams are open from this address."))
            await self._check(request, stack)
            if kind is Kind.RUN:
                await stack.enter_async_context(self._presses.held(asker, BUSY))
                await stack.enter_async_context(self._presses_of_client.held(request.client, BUSY, asker))
            yield

    async def _check(self, request: GuardedRequest, stack: AsyncExitStack) -> None:
        kind = request.route.kind
        if kind is Kind.PAGE:
            self._begin_visit(request)
        elif kind is Kind.ACCOUNT and request.route.name == "logout":
            self._gradio.log_out(request.cookies)
            request.scope["query_string"] = b"all_session=false"
        elif kind in FILES:
            request.in_one_piece()
            if kind is Kind.FILE:
                request.uncompressed()
        elif kind is Kind.UPLOAD:
            stack.enter_context(self._upload(request))
        elif kind is Kind.API:
            request.limited(self._limits, self._limits.api_bytes, self._buffer_until(stack))
            self._count_wrong_keys(request)
            if request.scope["method"] == "POST":
                stack.enter_context(self._api_calls.held(request.asker, TOO_MANY_WAITING))
        elif kind is Kind.LOGIN:
            self._take_login(request)
            body = await request.limited(self._limits, self._limits.form_bytes, self._buffer_until(stack)).read()
            request.receive = replay(body, request.raw_receive)
        elif kind in (Kind.RUN, Kind.JOIN, Kind.CALL, Kind.CANCEL):
            body = await request.limited(self._limits, self._limits.json_bytes, self._buffer_until(stack)).read()
            await self.count(request, len(body) / BYTES_OF_A_REQUEST)
            self._check_call(request, parse_object(body), stack)
            request.receive = replay(body, request.raw_receive)
        elif kind in (Kind.HEARTBEAT, Kind.DATA, Kind.CALL_RESULT):
            stack.enter_context(self._stream(request))

    # Who

    def _name_asker(self, request: GuardedRequest) -> Asker:
        """Tell everything behind who asks, and count what the page does. Raises Refused."""
        visit, asker = request.visit, request.asker
        ASKER.set(asker)
        if visit is not None and request.route.kind in CALLS and not self._calls.take(visit):
            raise Refused(429, BUSY, retry_after=self._calls.seconds_until(visit))
        return asker

    def _begin_visit(self, request: GuardedRequest) -> None:
        if request.visit is not None:
            return
        if not self._new_visits.take(request.client):
            raise Refused(429, BUSY, retry_after=self._new_visits.seconds_until(request.client))
        visit = self._visits.new_visit()
        cookie = new_cookie(visit, is_third=self._secure_cookie, has_tls=request.has_tls)
        request.headers.append((b"set-cookie", cookie.encode()))
        request.scope[SCOPE_KEY] = Asker(request.client, self._visits.visit_of(visit) or "")  # its connection's, now

    def _visit_or_program(self, request: GuardedRequest) -> str:
        return request.visit or f"program at {request.client}"

    def _check_login(self, request: GuardedRequest) -> None:
        if request.route.kind in OPEN or self._gradio.is_logged_in(request.cookies):
            return
        raise Refused(401, "Not authenticated")

    def _take_login(self, request: GuardedRequest) -> None:
        guesser = guesser_of(request.client)
        if not self._logins.take(guesser):
            seconds = self._logins.seconds_until(guesser)
            raise Refused(429, f"Too many logins from this address. Wait {seconds} seconds.", retry_after=seconds)

    def _count_wrong_keys(self, request: GuardedRequest) -> None:
        """A key is guessed as a password is; without one, as another site's page can make a browser ask, nothing is."""
        if self._logins.left(guesser_of(request.client)) < 1:
            self._take_login(request)
        if not any(header(request.scope, name) for name in KEYS):
            return

        def count(status: int) -> None:
            if status == 401:
                self._logins.take(guesser_of(request.client))

        request.on_status = count

    # What

    def _check_call(self, request: GuardedRequest, body: dict[str, Any], stack: AsyncExitStack) -> None:
        kind, gradio = request.route.kind, self._gradio
        if kind is Kind.CANCEL:
            own = self._own_session(request, body.get("session_hash"))
            gradio.check_unread(own.name, self._limits.unread_messages)  # each adds one to them
        elif kind is Kind.RUN:
            listener = gradio.listener(body.get("fn_index"), queued=False)
            self._use(request, body.get("session_hash"), is_public=False)
            _check_values(body, len(listener.inputs))
        elif kind is Kind.JOIN:
            listener = gradio.listener(body.get("fn_index"), queued=True)
            is_public = listener.api_visibility == "public"
            session = self._use(request, body.get("session_hash"), is_public=is_public)
            if not is_public:
                _check_values(body, len(listener.inputs))
            stack.enter_context(self._visits.asking(session))
            gradio.check_unread(session.name, self._limits.unread_messages)
        else:
            gradio.public_listener(request.route.name)
            self._call(request, body.get("session_hash"), stack)

    def _use(self, request: GuardedRequest, name: object, *, is_public: bool) -> Session:
        visit = self._visit_or_program(request) if is_public else request.visit
        if visit is None:
            self._begin_visit(request)  # so that a page from before a restart can go on
            raise Refused(403, NO_VISIT)
        return self._visits.use(name, visit, request.client)

    def _own_session(self, request: GuardedRequest, name: object) -> Session:
        session = self._visits.sessions.get(name) if isinstance(name, str) else None
        if session is None or session.visit not in (request.visit, f"program at {request.client}"):
            raise Refused(404, "The server does not know that session.")
        return session

    def _call(self, request: GuardedRequest, name: object, stack: AsyncExitStack) -> None:
        """A call without a session is one by itself, named by its event once gradio has answered."""
        visit, client = self._visit_or_program(request), request.client
        stack.enter_context(self._visits.asking(Session("", visit, client, 0.0)))
        if name is not None:
            self._visits.use(name, visit, client)
            return
        self._visits.make_room(visit, client)
        request.uncompressed()

        def bind(status: int, answer: bytes) -> None:
            if status == 200:
                self._visits.use(json.loads(answer).get("event_id"), visit, client)

        request.on_answer = bind

    @contextmanager
    def _stream(self, request: GuardedRequest) -> Iterator[None]:
        name = request.route.name
        if request.route.kind is Kind.HEARTBEAT:
            session = self._use(request, name, is_public=True)
        elif request.route.kind is Kind.DATA:
            session = self._own_session(request, request.parameter("session_hash"))
        else:
            session = self._own_session(request, self._gradio.session_of_event(name))
        if session.streams >= 4:  # the heartbeat, the answers, and both again while a connection is replaced
            raise Refused(429, "That session has its streams open already.", retry_after=5)
        session.streams += 1
        try:
            yield
        finally:
            session.streams -= 1
            session.last_used = self._visits.clock()
            if session.name == name and request.route.kind is Kind.CALL_RESULT:
                self._visits.forget(session)  # a call whose result was fetched, or whose caller has gone

    # How much

    def _buffer_until(self, stack: AsyncExitStack) -> Callable[[bytes], None]:
        """Counts parts of a body as held by the server until the request ends."""
        held = 0

        def count(part: bytes) -> None:
            nonlocal held
            size = len(part)
            if self._buffered + size > self._limits.buffered_bytes:
                raise Refused(503, "The server is reading as much as it can. Try again.", retry_after=5)
            held += size
            self._buffered += size

        def release() -> None:
            self._buffered -= held

        stack.callback(release)
        return count

    @contextmanager
    def _upload(self, request: GuardedRequest) -> Iterator[None]:
        visit, asker = self._visit_or_program(request), request.asker
        size = check_length(request.scope, self._limits.upload_bytes)
        if self._bytes.left(asker) < max(size, 1):
            raise Refused(429, "Too much was uploaded from this address lately.", retry_after=60)
        self._uploads.check_room(size, asker.client)
        FILES_OF_A_FORM.set(self._limits.upload_files)

        def count(part: bytes) -> None:
            self._bytes.use(asker, len(part))
            self._uploads.count(upload, len(part))
            if self._bytes.left(asker) < 0:
                raise Refused(429, "Too much was uploaded from this address lately.", retry_after=60)

        def own(status: int, answer: bytes) -> None:
            if status == 200:
                self._uploads.own(visit, json.loads(answer), asker.client)
                self._last_upload[visit] = self._visits.clock()

        request.limited(self._limits, self._limits.upload_bytes, count)
        request.uncompressed()
        request.on_answer = own
        with self._uploads.running(asker.client) as upload:
            yield

    def tidy(self) -> None:
        """Forget sessions whose page has gone, and delete the uploads of visits that have none left."""
        self._visits.forget_old()
        active = {session.visit for session in self._visits.sessions.values()}
        old = self._visits.clock() - self._limits.upload_seconds
        for visit in self._uploads.visits() - active:
            if self._last_upload.get(visit, 0.0) < old:
                self._last_upload.pop(visit, None)
                self._uploads.forget(visit)


def _check_values(body: dict[str, Any], number: int) -> None:
    values = body.get("data")
    if not isinstance(values, list) or len(values) != number:
        raise Refused(400, "The request does not have the values of that function.")
