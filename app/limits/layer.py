"""The layer in front of gradio: every request passes here first, is counted for its client, and served or refused."""

from __future__ import annotations

import asyncio
import json
import logging
import traceback
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.limits.addresses import SCOPE_KEY, Network, resolve
from app.limits.bodies import drain
from app.limits.budgets import PAYER, Metered, ProcessorShare
from app.limits.gradio_app import GradioApp
from app.limits.guarded_request import GuardedRequest
from app.limits.kept_pages import KeptPages
from app.limits.policy import Limits
from app.limits.refusal import AuditLog, Refused
from app.limits.request_checks import RequestChecks
from app.limits.response_headers import security_headers, with_headers
from app.limits.route_kinds import ANSWERS, FILES, KEPT_KINDS, LINKED, STREAMED, WORK, Kind, route_of
from app.limits.uploads import FULL, UploadFolder
from app.limits.visits import Visits
from app.limits.web_origins import Origins
from models.disk import is_disk_full

logger = logging.getLogger(__name__)
TIDY_SECONDS = 10.0


@dataclass
class Front:
    """How the server is reached: by which names and proxies, and who may frame its page."""

    origins: Origins
    trusted: Sequence[Network] = ()
    tunnel_host: str | None = None  # of the share link, once it is there
    is_shared: bool = False
    ancestors: str = "'self'"

    @property
    def is_framed_elsewhere(self) -> bool:
        """Whether pages of other sites show this one, whose cookie is then a third party's."""
        return self.ancestors not in ("'self'", "'none'")


class LimitsLayer:
    """An ASGI application around another, `inside`: gradio's, with whatever is put around that."""

    def __init__(self, app: ASGIApp, gradio: GradioApp, limits: Limits, front: Front, share: ProcessorShare) -> None:
        self.inside = app
        self._share = share
        self.front = front
        self.audit = AuditLog()
        self.refuses = ""  # why nothing new is begun, if that is so
        self.awaits_api = False  # which is put inside once the page is there
        self.num_answering = 0  # requests that carry answers
        self.visits = Visits(limits, gradio)
        self.uploads = UploadFolder(Path(gradio.upload_folder), limits)
        self._pages = KeptPages(gradio)
        self._forget_files = gradio.forget_files
        self._checks = RequestChecks(gradio, limits, self.visits, self.uploads, secure_cookie=front.is_framed_elsewhere)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve or refuse one request."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        elif scope["type"] == "http":
            client = resolve(scope, self.front.trusted, self.front.tunnel_host)
            request, answer = GuardedRequest(scope, client, receive), _Answer(send)
            request.visit = self.visits.visit_in(request.cookies)
            scope[SCOPE_KEY] = request.asker  # for everything behind, and for the connection
            PAYER.set(None)  # before it, a request on the same connection may have been a stream
            await Metered(self._serve(request, answer, send), partial(self._share.took, request.payer))
        else:
            await self.inside(scope, receive, send)

    async def _serve(self, request: GuardedRequest, answer: _Answer, send: Send) -> None:
        front, scope = self.front, request.scope
        kind: Kind | None = None
        try:
            await self._share.turn(request.payer)
            await self._checks.count(request)
            request.check_framing()
            front.origins.check(scope, changes_something=False)
            request.route = route_of(scope["method"], scope["path"])
            kind = request.route.kind
            front.origins.check(scope, changes_something=kind not in LINKED)
            if self.awaits_api and kind is Kind.API:
                raise Refused(503, "The server is still starting; ask again in a moment.", retry_after=1)
            if self.refuses and kind in WORK:
                raise Refused(503, self.refuses, retry_after=30)
            async with self._checks.admitted(request), self._answering(kind):
                headers = security_headers(kind, is_shared=front.is_shared, ancestors=front.ancestors)
                headers += request.headers
                begun = self._by_turns(request, answer) if kind in FILES else answer.send
                request.send = with_headers(begun, headers, foreign=kind is not Kind.API, has_tls=request.has_tls)
                answer.may_pass = lambda: request.refused is None
                answer.holds_failures = kind is not Kind.API  # which has answers of its own for them
                if kind in STREAMED:
                    PAYER.set(partial(self._share.took, request.payer))
                if kind in KEPT_KINDS:
                    await self._pages.serve(self.inside, scope, request.receive, request.watched_send)
                else:
                    await self.inside(scope, request.receive, request.watched_send)
            if request.refused is not None:
                raise request.refused
            await answer.end()
            if request.denied is not None:
                self.audit.write(request.client, scope["method"], scope["path"], request.denied)
        except Refused as refused:
            await self._refuse(request, answer, send, kind, request.refused or refused)
        except Exception as error:
            if request.refused is not None:
                await self._refuse(request, answer, send, kind, request.refused)
            elif is_disk_full(error):
                await self._refuse(request, answer, send, kind, Refused(507, FULL, retry_after=60))
            else:
                await self._fail(request, answer, send, kind, error)

    def _by_turns(self, request: GuardedRequest, answer: _Answer) -> Send:
        """Sends each piece of a file once its client may have more: a file may have very many."""

        async def send(message: Message) -> None:
            await self._share.turn(request.payer)
            await answer.send(message)

        return send

    async def _refuse(
        self,
        request: GuardedRequest,
        answer: _Answer,
        send: Send,
        kind: Kind | None,
        refused: Refused,
        *,
        is_audited: bool = False,
    ) -> None:
        self._checks.count_refused(request)
        if not is_audited:
            self.audit.write(request.client, request.scope["method"], request.scope["path"], refused)
        if answer.has_begun:
            return
        headers = security_headers(kind, is_shared=self.front.is_shared, ancestors=self.front.ancestors)
        headers += [*request.headers, (b"content-type", b"application/json")]
        if refused.retry_after is not None:
            headers.append((b"retry-after", str(refused.retry_after).encode()))
        if request.has_unread_body:
            headers.append((b"connection", b"close"))
        told: dict[str, object] = {"detail": refused.reason}  # what gradio's page shows, and what clients of /v1 do
        if kind is Kind.API:
            told = {"error": {"message": refused.reason, "type": "refused", "param": None, "code": refused.status}}
        body = json.dumps(told).encode()
        headers.append((b"content-length", str(len(body)).encode()))
        await send({"type": "http.response.start", "status": refused.status, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": request.has_unread_body})
        if request.has_unread_body:
            await drain(request.raw_receive)
            await send({"type": "http.response.body", "body": b""})

    async def _fail(
        self, request: GuardedRequest, answer: _Answer, send: Send, kind: Kind | None, error: Exception
    ) -> None:
        """What nobody expected: one entry in the log, and an answer if none has begun."""
        if type(error).__name__ == "ClientDisconnect":
            return
        frame = traceback.extract_tb(error.__traceback__)[-1]
        method = request.scope["method"]
        refused = Refused(500, f"{type(error).__name__} in {Path(frame.filename).name}:{frame.lineno}")
        self.audit.write(request.client, method, request.scope["path"], refused)
        logger.debug("what failed", exc_info=error)
        if not answer.has_begun:
            shown = Refused(500, "Something went wrong in the program; its log says more.")
            await self._refuse(request, answer, send, kind, shown, is_audited=True)

    @asynccontextmanager
    async def _answering(self, kind: Kind) -> AsyncIterator[None]:
        self.num_answering += kind in ANSWERS
        try:
            yield
        finally:
            self.num_answering -= kind in ANSWERS

    async def tidy_forever(self) -> None:
        """Forget what is old, every few seconds, until cancelled."""
        while True:
            await asyncio.sleep(TIDY_SECONDS)
            try:
                self._checks.tidy()
                await asyncio.to_thread(self.uploads.tidy)
                await asyncio.to_thread(self._forget_files)
            except Exception:  # whatever it was, the next look may succeed
                logger.exception("Tidying up failed")


class _Answer:
    """Whether an answer has begun, and whether what the program behind sends may still pass.

    An answer of status 500 is held until its end: mostly an exception follows it, which can be answered better.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self._held: list[Message] = []
        self.has_begun = False
        self.may_pass: Callable[[], bool] = lambda: True
        self.holds_failures = False

    async def send(self, message: Message) -> None:
        if not self.has_begun and not self.may_pass():
            return  # the program took a refused body for its own error
        if self._held or (self.holds_failures and message.get("status") == 500 and not self.has_begun):
            self._held.append(message)
            return
        self.has_begun = True
        await self._send(message)

    async def end(self) -> None:
        """Nothing was raised: send what was held."""
        for message in self._held:
            self.has_begun = True
            await self._send(message)
