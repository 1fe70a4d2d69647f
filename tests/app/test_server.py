"""The port that is asked for, and what the server's log leaves out."""

from __future__ import annotations

import logging
import socket
from asyncio import CancelledError

import pytest
from starlette.requests import ClientDisconnect

from app.server import free_port, is_worth_a_line
from models.errors import RequestError


def test_a_port_is_free_or_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(RequestError, match="another --port"):
        free_port("127.0.0.1", taken.getsockname()[1])
    assert free_port("127.0.0.1", 0) > 0
    with pytest.raises(RequestError, match="from 1 to 65535"):
        free_port("127.0.0.1", 70_000)


def test_a_visitor_who_left_is_no_traceback() -> None:
    def record(error: BaseException) -> logging.LogRecord:
        details = (type(error), error, None)
        return logging.LogRecord("uvicorn.error", logging.ERROR, "", 0, "Exception in ASGI application", None, details)

    assert not is_worth_a_line(record(ClientDisconnect()))
    assert not is_worth_a_line(record(CancelledError()))  # an upload that was open when the server ended
    assert is_worth_a_line(record(ValueError("a bug")))
