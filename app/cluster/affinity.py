"""What names a conversation, so that its next question goes to the replica that still has its keys and values."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextvars import ContextVar

from starlette.types import ASGIApp, Receive, Scope, Send

from models.conversation import Turn

HEADER = b"x-session-id"
MOST_CHARACTERS = 128  # of a client's name for it
NAMED: ContextVar[str] = ContextVar("session named by the client", default="")


class SessionHeader:
    """ASGI middleware: what a client calls its conversation is known to whoever answers the request."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass everything on."""
        name = next((value for key, value in scope.get("headers", ()) if key.lower() == HEADER), b"")
        NAMED.set(name.decode("latin-1")[:MOST_CHARACTERS])
        await self._app(scope, receive, send)


def session_of(turns: Sequence[Turn]) -> str:
    """The client's name for the conversation; without one, what its turns have in common for as long as it lasts:
    the first question and its pictures."""
    if named := NAMED.get():
        return named
    first = turns[0]
    content = hashlib.sha256(first.text.encode("utf-8", "replace"))
    for image in first.images:
        content.update(f"{image.mode} {image.size}".encode())
        content.update(image.tobytes())
    return content.hexdigest()
