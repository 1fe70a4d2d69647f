"""The line about a refused request, how often it is written, and what is none."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import ThreadPoolExecutor, wait

import httpx
import pytest
from starlette.responses import Response

from app.chat.conversation_store import ConversationStore
from app.chat.decoding.decode import DecodeError
from app.chat.pictures import STORE
from app.limits.refusal import LINES_PER_MINUTE, AuditLog, Refused, RepeatedLines, printable
from app.page.page_state import PageState
from tests.app.limits.visitors import FILE, ServeLimited, Visitor, listener_index


def test_a_flood_is_a_few_lines(caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    audit = AuditLog(clock=lambda: now[0])
    for _ in range(1000):
        audit.write("1.2.3.4", "GET", "/x", Refused(404, "Not found."))
    assert len(caplog.messages) == 1
    now[0] = 11
    audit.write("1.2.3.4", "GET", "/x", Refused(404, "Not found."))
    assert "999 more" in caplog.messages[-1]
    for number in range(10_000):
        audit.write(f"client {number}", "GET", "/x", Refused(404, "Not found."))
    assert len(caplog.messages) == LINES_PER_MINUTE
    assert audit.total == 11_001


def test_a_line_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    AuditLog().write("1.2.3.4", "X" * 60_000, "/x", Refused(405, "That does nothing here."))
    assert caplog.messages == ["refused 405: XXXXXXXXXX… /x from 1.2.3.4: That does nothing here."]
    assert printable("/a\r\nforged line\x1b[2J\u2028é\\") == "/a??forged line?[2J???"
    assert printable("x" * 500) == "x" * 100 + "…"


def test_a_library_that_repeats_itself_is_heard_a_few_times() -> None:
    now = [0.0]
    lines = RepeatedLines(per_minute=3, clock=lambda: now[0])

    def record(text: str) -> logging.LogRecord:
        return logging.LogRecord("asyncio", logging.ERROR, "", 0, text, None, None)

    assert sum(lines.filter(record("accept failed")) for _ in range(100)) == 3
    assert lines.filter(record("something else"))
    now[0] = 61
    assert lines.filter(record("accept failed"))


def test_conversations_that_have_to_go_are_a_few_lines(
    serve_limited: ServeLimited, caplog: pytest.LogCaptureFixture
) -> None:
    """Many visitors with large pictures, or a full disk, wrote one for each question."""
    serve_limited()
    for number in range(100):
        store: ConversationStore[PageState] = ConversationStore(max_bytes=0)
        for key in ("one", "two"):
            store.keep(f"{key} {number}", PageState(drawn=1))
    assert 1 <= sum("A conversation was dropped" in line for line in caplog.messages) <= 10


def test_presses_that_run_when_the_server_ends_are_no_tracebacks(
    serve_limited: ServeLimited, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A picture that was being read made one, of thirty lines, for each visitor who waited for theirs."""
    begun, may_end = threading.Event(), threading.Event()

    def decode(_: bytes) -> None:
        begun.set()
        may_end.wait(60)
        raise DecodeError("is none.")

    monkeypatch.setattr(STORE, "_decode", decode)
    url = serve_limited()
    visitor = Visitor(url)
    files = [{"path": visitor.upload(b"\x89PNG").json()[0], "meta": FILE}]
    with ThreadPoolExecutor(1) as pool:
        pressed = pool.submit(visitor.press, listener_index(url, "attach"), [None, {"text": "", "files": files}])
        assert begun.wait(60)
        server = serve_limited.demo.server  # type: ignore[attr-defined]
        server.config.timeout_graceful_shutdown = 0
        server.should_exit = True
        wait([pressed])
        may_end.set()
    assert "Traceback" not in capfd.readouterr().err


def test_wrong_passwords_and_keys_are_lines(serve_limited: ServeLimited, caplog: pytest.LogCaptureFixture) -> None:
    url = serve_limited(auth=("me", "right"))
    layer = serve_limited.limited.layer  # type: ignore[attr-defined]
    with httpx.Client(base_url=url) as client:
        assert client.post("/login", data={"username": "me", "password": "wrong"}).status_code == 400
        assert client.post("/login", data={"username": "me", "password": "right"}).status_code == 200
        layer.inside = Response(status_code=401)
        assert client.get("/v1/models", headers={"authorization": "Bearer wrong"}).status_code == 401
        layer.inside = Response(status_code=200)
        assert client.get("/v1/models", headers={"authorization": "Bearer right"}).status_code == 200
    assert [line for line in caplog.messages if line.startswith("refused")] == [
        "refused 400: POST /login from 127.0.0.1: Wrong name or password.",
        "refused 401: GET /v1/models from 127.0.0.1: A key is missing or wrong.",
    ]
