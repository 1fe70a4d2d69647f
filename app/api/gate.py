"""In front of the whole server: the API's paths go to the API, all others to the page; other sites' pages to neither.

It stands before gradio's own middleware, which answers every origin on a public address and compresses streams.
"""

from __future__ import annotations

from inspect import isawaitable
from typing import TYPE_CHECKING, Protocol

from fastapi import FastAPI, Request, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.access import Access
from app.api.api_application import make_api
from app.api.metrics import as_text
from app.api.openai.api_errors import ApiError
from app.api.openai.routes import Service
from app.api.openai.served import ServedModels, check_ready
from app.limits.route_kinds import API_PREFIXES

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from gradio.routes import App

    from engine.stats import Counters

ALLOWED_METHODS = "GET, POST, OPTIONS"
PREFLIGHT_SECONDS = 600


class Gate:
    """ASGI application around the page's and the API's."""

    def __init__(self, page: ASGIApp, api: ASGIApp, access: Access) -> None:
        self._page = page
        self._api = api
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or pass on."""
        if scope["type"] != "http":
            return await self._page(scope, receive, send)
        request = Request(scope)
        origin = request.headers.get("origin", "")
        is_allowed = bool(origin) and self._access.allows(origin)
        if is_allowed:
            send = _with_cors(send, origin)
            if request.method == "OPTIONS" and "access-control-request-method" in request.headers:
                return await _preflight(request)(scope, receive, send)
        if not is_api(scope):
            return await self._page(scope, receive, send)
        try:
            self._access.check(request)
        except ApiError as error:
            return await error.response()(scope, receive, send)
        await self._api(scope, receive, send)


def is_api(scope: Scope) -> bool:
    """Whether the path is one of the API's."""
    path = str(scope["path"]).removeprefix(str(scope.get("root_path", "")))
    return any(path == prefix or path.startswith(prefix + "/") for prefix in API_PREFIXES)


class Layer(Protocol):
    """What may stand in front of the whole server and let requests through to `inside`."""

    inside: ASGIApp


def add_api(
    app: App,
    models: ServedModels,
    stats: Callable[[], Mapping[str, Counters]],
    access: Access,
    *,
    behind: Layer | None = None,
) -> Service:
    """Serve the API beside the page, on the same port, and behind a layer in front of both if there is one."""
    service = Service(models)
    api = make_api(service)
    add_state(api, models, stats)
    if behind is not None:
        behind.inside = Gate(behind.inside, api, access)
    else:
        app.middleware_stack = Gate(app.middleware_stack or app.build_middleware_stack(), api, access)
    return service


def add_state(
    api: FastAPI,
    models: ServedModels,
    stats: Callable[[], Mapping[str, Counters]] | Callable[[], Awaitable[Mapping[str, Counters]]],
) -> None:
    """Two more routes: `/health`, whether questions are answered, and `/metrics`."""

    @api.get("/health")
    async def health() -> Response:
        check_ready(models)
        return Response('{"status":"ok"}', media_type="application/json")

    @api.get("/metrics")
    async def metrics() -> Response:
        found = stats()
        text = as_text(await found if isawaitable(found) else found)
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")


def _with_cors(send: Send, origin: str) -> Send:
    """`send` with the headers for pages of this origin, instead of gradio's."""

    async def send_with_cors(message: Message) -> None:
        if message["type"] == "http.response.start":
            kept = [one for one in message.get("headers", []) if one[0].lower() not in _GRADIOS]
            message = {
                **message,
                "headers": [
                    *kept,
                    (b"access-control-allow-origin", origin.encode()),
                    (b"access-control-expose-headers", b"x-request-id, retry-after"),
                    (b"vary", b"origin"),
                ],
            }
        await send(message)

    return send_with_cors


_GRADIOS = (b"access-control-allow-origin", b"access-control-allow-credentials")


def _preflight(request: Request) -> Response:
    return Response(
        status_code=204,
        headers={
            "access-control-allow-methods": ALLOWED_METHODS,
            "access-control-allow-headers": request.headers.get("access-control-request-headers", ""),
            "access-control-max-age": str(PREFLIGHT_SECONDS),
        },
    )
