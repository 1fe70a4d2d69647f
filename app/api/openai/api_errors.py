"""Every error of the API, in the one shape that OpenAI's clients read: {"error": {message, type, param, code}}."""

from __future__ import annotations

from typing import Any

from fastapi.responses import JSONResponse

from models.errors import (
    Busy,
    ContextOverflow,
    ImageError,
    MiniVLMError,
    NotEnoughMemory,
    NotFinite,
    NotLoaded,
    ServerFailed,
    ServerLoading,
    ShutDown,
)

RETRY_SECONDS = 5  # what a client that finds the queue full or the model loading is told to wait


class ApiError(Exception):
    """An HTTP status with a line for the user. `param` is the field at fault, `code` a word for programs.

    `is_final`: the same request would fail again, so clients are told not to repeat it, as they do after a 500.
    """

    def __init__(
        self, status: int, message: str, *, code: str | None = None, param: str | None = None, is_final: bool = False
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.is_final = is_final

    @property
    def body(self) -> dict[str, Any]:
        """The JSON of the response, or of an event in a stream that has begun."""
        kind = _TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        """The response, with the headers that clients heed."""
        headers = {"x-should-retry": "false"} if self.is_final else {}
        if self.status in (429, 503):
            headers["retry-after"] = str(RETRY_SECONDS)
        if self.status == 401:
            headers["www-authenticate"] = "Bearer"
        return JSONResponse(self.body, self.status, headers)


_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


def api_error(error: MiniVLMError) -> ApiError:
    """The error of the API for what a model or the reading of a request raised."""
    message = str(error)
    match error:
        case ContextOverflow():
            return ApiError(400, message, code="context_length_exceeded", param="messages")
        case ImageError():
            return ApiError(400, message, code="invalid_image", param="messages")
        case NotLoaded():
            return ApiError(503, message, code="model_loading")
        case Busy():
            return ApiError(429, message, code="queue_full")
        case ShutDown():
            return ApiError(503, message, code="server_stopping")
        case NotEnoughMemory():
            return ApiError(500, message, code="out_of_memory", is_final=True)
        case ServerLoading():
            return ApiError(503, message, code="model_loading")
        case ServerFailed():
            return ApiError(502, message, code="server_failed")
        case NotFinite():
            return ApiError(500, message, code="not_finite", is_final=True)
    return ApiError(400, message, code="invalid_request", param="messages")
