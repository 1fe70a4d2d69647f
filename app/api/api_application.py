"""The API as one application of its own: its routes, and its errors in OpenAI's shape whatever goes wrong."""

from __future__ import annotations

import logging
import uuid
from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Scope, Send

from app.api.moondream import moondream_router
from app.api.openai.api_errors import ApiError, api_error
from app.api.openai.responses import CLIENT_LEFT
from app.api.openai.routes import Service, openai_router
from models.errors import MiniVLMError

logger = logging.getLogger(__name__)


class RequestId:
    """ASGI middleware: every response says in `x-request-id` which request it answers."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass everything on."""
        number = f"req_{uuid.uuid4().hex}"
        scope.setdefault("state", {})["request_id"] = number

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                message.setdefault("headers", []).append((b"x-request-id", number.encode()))
            await send(message)

        await self._app(scope, receive, send_with_id)


def make_api(service: Service) -> FastAPI:
    """All routes of the API; the paths are those that clients ask."""
    api = FastAPI(openapi_url=None, redirect_slashes=False)
    api.include_router(openai_router(service))
    api.include_router(moondream_router(service))

    @api.exception_handler(ApiError)
    async def refused(_: Request, error: ApiError) -> Response:
        return error.response()

    @api.exception_handler(MiniVLMError)
    async def mistake(_: Request, error: MiniVLMError) -> Response:
        return api_error(error).response()

    @api.exception_handler(HTTPException)
    async def no_route(request: Request, error: HTTPException) -> Response:
        return _http_error(request, error).response()

    @api.exception_handler(ClientDisconnect)
    async def left(_: Request, error: ClientDisconnect) -> Response:
        del error
        return Response(status_code=CLIENT_LEFT)

    @api.exception_handler(Exception)
    async def bug(request: Request, error: Exception) -> Response:
        explained = service.explain(error)
        logger.error("%s failed", request.scope.get("state", {}).get("request_id"))
        return explained.response()

    api.add_middleware(RequestId)
    return api


def _http_error(request: Request, error: HTTPException) -> ApiError:
    path = request.url.path
    if error.status_code == 404:
        return ApiError(404, f"There is no {path} here.", code="unknown_url")
    if error.status_code == 405:
        return ApiError(405, f"{path} does not take {request.method}.", code="method_not_allowed")
    return ApiError(error.status_code, str(error.detail))
