"""Visitors, strangers and attackers at a real server, over HTTP. A bystander's conversation runs beside each attack."""

from __future__ import annotations

import errno
import io
import re
import secrets
import socket
import time
from typing import Any

import httpx
import pytest
from gradio_client import Client  # type: ignore[import-untyped]
from PIL import Image
from starlette.responses import Response

from app.chat.pictures import STORE
from app.limits.policy import PUBLIC, Limits
from app.limits.uploads import FULL
from tests.app.limits.visitors import PICTURE, ServeLimited, Visitor, a_bystander, listener_index
from tests.waiting import eventually


def test_a_visit_and_what_it_is_told(serve_limited: ServeLimited) -> None:
    url = serve_limited()
    visitor = Visitor(url)
    page = visitor.client.get("/")
    assert "set-cookie" not in page.headers  # the visit goes on
    assert "default-src 'self'" in page.headers["content-security-policy"]
    assert page.headers["x-content-type-options"] == "nosniff"
    assert page.headers["x-frame-options"] == "SAMEORIGIN"
    path = visitor.upload(PICTURE.read_bytes()).json()[0]
    file = visitor.client.get(f"/gradio_api/file={path}")
    assert file.content == PICTURE.read_bytes()
    for asked, status in (("bytes=1-4", 206), ("bytes=0-1,3-4", 200), ("bytes=x-y", 200), ("bytes=-5", 200)):
        assert visitor.client.get(f"/gradio_api/file={path}", headers={"range": asked}).status_code == status
    assert "sandbox" in file.headers["content-security-policy"]
    assert "A red circle." in visitor.ask("what is this?", [path])
    assert visitor.press(listener_index(url, "reset"), [None]).status_code == 200


def test_programs_call_what_is_public(serve_limited: ServeLimited) -> None:
    url = serve_limited()
    answer, *_ = Client(url, verbose=False).predict(None, "hello", api_name="/chat")
    assert answer == "A red circle."
    for route in ("chat", "v2/chat"):
        body: dict[str, object] = {"data": [None, "hello", [], 0, 1, 5, 1, 0]}
        if route.startswith("v2"):
            body = {"text": "hello", "image": None}
        event = httpx.post(f"{url}gradio_api/call/{route}", json=body).json()["event_id"]
        assert "A red circle." in httpx.get(f"{url}gradio_api/call/{route}/{event}").text
        assert httpx.get(f"{url}gradio_api/call/{route}/{event}").status_code == 404  # fetched, and forgotten


@pytest.mark.parametrize("name", ["reset", "attach", "ask", "undo", "edit", "stop", "chat", "nothing"])
def test_private_listeners_are_closed_to_direct_calls(serve_limited: ServeLimited, name: str) -> None:
    url = serve_limited()
    with a_bystander(url):
        visitor = Visitor(url)
        for route in ("run", "api", "call"):
            if (route, name) != ("call", "chat"):
                answer = visitor.client.post(f"/gradio_api/{route}/{name}", json={"data": [], "session_hash": "x"})
                assert answer.status_code == 404, (route, answer.text)


def test_only_a_visit_makes_the_server_keep_something(serve_limited: ServeLimited) -> None:
    url = serve_limited()
    state = serve_limited.demo.state_holder.session_data  # type: ignore[attr-defined]
    stranger = Visitor(url, loads_page=False)
    reset = listener_index(url, "reset")
    refused = stranger.press(reset, [None])
    assert refused.status_code == 403
    assert "set-cookie" in refused.headers
    assert Visitor(url, loads_page=False).join("hello").status_code == 403
    assert not state
    assert stranger.press(reset, [None]).status_code == 200
    thief = Visitor(url)
    thief.session = stranger.session
    assert thief.press(reset, [None]).status_code == 403


def test_sessions_by_the_hundred_erase_nobodys_conversation(serve_limited: ServeLimited) -> None:
    url = serve_limited(Limits(sessions=60, sessions_per_client=30, sessions_per_visit=10))
    state = serve_limited.demo.state_holder.session_data  # type: ignore[attr-defined]
    reset = listener_index(url, "reset")
    with a_bystander(url):
        attacker = Visitor(url)
        for _ in range(200):
            attacker.session = secrets.token_hex(6)
            assert attacker.press(reset, [None]).status_code == 200
        assert len(state) <= 11


def test_bodies_have_a_size_and_a_time(serve_limited: ServeLimited) -> None:
    url = serve_limited(Limits(json_bytes=100_000, upload_bytes=200_000, body_seconds=0.5))
    port = int(url.rsplit(":", 1)[1].strip("/"))
    with a_bystander(url):
        attacker = Visitor(url)
        large = attacker.client.post("/gradio_api/queue/join", content=b'{"data":["' + b"x" * 1_000_000 + b'"]}')
        assert large.status_code == 413
        chunked = attacker.client.post("/gradio_api/queue/join", content=(b"x" * 50_000 for _ in range(20)))
        assert chunked.status_code == 413
        assert attacker.upload(b"x" * 300_000).status_code == 413
        with socket.create_connection(("127.0.0.1", port)) as slow:
            head = "POST /gradio_api/upload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n"
            slow.sendall(f"{head}Content-Type: multipart/form-data; boundary=a\r\n\r\n--".encode())
            assert slow.recv(100).startswith(b"HTTP/1.1 408")
        with socket.create_connection(("127.0.0.1", port)) as smuggler:
            head = "POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n"
            smuggler.sendall(f"{head}0\r\n\r\nGET /robots.txt HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            told = b"".join(iter(lambda: smuggler.recv(10_000), b""))
            assert told.startswith(b"HTTP/1.1 400")
            assert told.count(b"HTTP/1.1 ") == 1  # and the connection is closed
        deep = b'{"data":' + b"[" * 40_000 + b"]" * 40_000 + b"}"
        assert attacker.client.post("/gradio_api/queue/join", content=deep).status_code == 400


def test_connections_that_ask_for_nothing_are_closed(serve_limited: ServeLimited) -> None:
    url = serve_limited(Limits(connections_per_client=20, idle_seconds=0.5))
    port = int(url.rsplit(":", 1)[1].strip("/"))
    connections = serve_limited.limited.connections  # type: ignore[attr-defined]
    with a_bystander(url):
        silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(60)]
        for one in silent[:10]:
            one.sendall(b"GET / HTTP/1.1\r\nHost: lo")
        assert eventually(lambda: connections.total <= 22)
        assert httpx.get(url).status_code == 200  # an idle one made room
        assert eventually(lambda: connections.total <= 3)
        for one in silent:
            one.close()


def test_heartbeats_are_counted(serve_limited: ServeLimited) -> None:
    url = serve_limited(Limits(streams_per_client=5))
    layer = serve_limited.limited.layer  # type: ignore[attr-defined]
    with a_bystander(url):
        attacker = Visitor(url)
        opened = [attacker.client.stream("GET", f"/gradio_api/heartbeat/h{number}") for number in range(8)]
        statuses = [stream.__enter__().status_code for stream in opened]
        assert sorted(statuses) == [200] * 5 + [429] * 3
        for stream in opened:
            stream.__exit__(None, None, None)
        assert eventually(lambda: layer._checks._streams.of("127.0.0.1") == 0)
        strange = httpx.get(f"{url}gradio_api/queue/data", params={"session_hash": "nobodys"})
        assert strange.status_code == 404


def test_uploads_are_counted_and_go_with_their_visit(serve_limited: ServeLimited) -> None:
    url = serve_limited(Limits(upload_bytes_per_hour=100_000, session_seconds=0.0, upload_seconds=0.0))
    layer = serve_limited.limited.layer  # type: ignore[attr-defined]
    with a_bystander(url):
        attacker = Visitor(url)
        first = attacker.upload(b"x" * 60_000)
        assert first.status_code == 200
        assert attacker.upload(b"y" * 60_000).status_code == 429
        assert [file.name for file in layer.uploads.folder.rglob("a.png")] == ["a.png"] * 2
        time.sleep(0.01)
        layer._checks.tidy()
        assert [file.read_bytes() for file in layer.uploads.folder.rglob("a.png")] == [PICTURE.read_bytes()]


def test_foreign_pages_and_names(serve_limited: ServeLimited) -> None:
    url = serve_limited(allow_host=["chat.example"])
    for origin in ("https://evil.example", "null"):
        answer = Visitor(url).client.post("/gradio_api/upload", files={"files": b"x"}, headers={"origin": origin})
        assert answer.status_code == 403
        assert "access-control-allow-origin" not in answer.headers
        page = httpx.get(url, headers={"origin": origin, "host": "chat.example"})
        assert page.status_code == 200
        assert "access-control-allow-origin" not in page.headers
    assert httpx.get(url, headers={"host": "evil.example"}).status_code == 421
    config = httpx.get(f"{url}config", headers={"x-forwarded-host": "evil.example"}).json()
    assert config["root"] == url.rstrip("/")


def test_a_login_is_asked_for_everywhere_and_guessed_slowly(serve_limited: ServeLimited) -> None:
    url = serve_limited(Limits(logins_per_minute=5), auth=("me", "right"))
    closed = ["config", "gradio_api/heartbeat/x", "gradio_api/info", "gradio_api/openapi.json"]
    for path in closed:
        assert httpx.get(url + path).status_code == 401, path
    for path in ("cancel", "upload", "run/predict", "queue/join", "call/chat"):
        assert httpx.post(f"{url}gradio_api/{path}", json={}).status_code == 401, path
    guesses = [httpx.post(f"{url}login", data={"username": "me", "password": str(n)}).status_code for n in range(60)]
    assert guesses[:5] == [400] * 5
    assert guesses.count(429) > 30
    visitor = Visitor(url, address="127.0.0.3")
    assert visitor.client.post("/login", data={"username": "me", "password": "right"}).status_code == 200
    assert visitor.client.get("/config").status_code == 200
    assert "A red circle." in visitor.ask("hello")


def test_a_public_server_still_serves_a_class_room(serve_limited: ServeLimited) -> None:
    url = serve_limited(PUBLIC)
    visitors = [Visitor(url) for _ in range(12)]
    assert all("A red circle." in visitor.ask("hello") for visitor in visitors)


def test_refusals_are_one_line_each(
    serve_limited: ServeLimited, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.limits.refusal.SECONDS_BETWEEN_LINES", 1e9)
    url = serve_limited()
    for _ in range(50):
        httpx.get(f"{url}gradio_api/component_server%0aforged")
    lines = [line for line in caplog.messages if "component_server" in line]
    assert len(lines) == 1
    assert re.fullmatch(r"refused 404: GET .*\?forged from 127\.0\.0\.1: Not found\.", lines[0])


def test_values_that_no_listener_expects_are_one_line(
    serve_limited: ServeLimited,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One for each listener, without a traceback: a stranger could fill the log with them, place by place."""
    monkeypatch.setattr("app.limits.boundary.SECONDS_BETWEEN_LINES", 1e9)
    url = serve_limited(Limits(requests_at_once=10_000, calls_at_once=10_000))
    listeners = [
        one for one in httpx.get(f"{url}config").json()["dependencies"] if one["backend_fn"] and not one["queue"]
    ]
    values: list[Any] = [None, 5, "x", [[]], {}, {"text": 5, "files": "x"}, {"text": None, "files": [{"path": "/a"}]}]
    with a_bystander(url):
        attacker = Visitor(url)
        for value in values:
            for one in listeners:
                answer = attacker.press(one["id"], [value] * len(one["inputs"]), event_data={"index": 0})
                assert answer.status_code in (200, 500)
                assert "Traceback" not in answer.text
        for value in (*values, *({"index": value} for value in (*values, -1, 99))):
            for one in listeners:
                nothing = [None if number == 0 else {"text": "", "files": []} for number in range(len(one["inputs"]))]
                answer = attacker.press(one["id"], nothing, event_data=value)
                assert answer.status_code in (200, 500), answer.text
    assert "Traceback" not in capfd.readouterr().err
    lines = [record for record in caplog.records if record.name == "app.limits.boundary"]
    assert lines
    assert [record.getMessage() for record in lines if record.exc_info or "Traceback" in record.getMessage()] == []
    assert len(lines) <= 2 * len(listeners)


def test_an_upload_to_a_full_disk_is_one_line_and_the_next_one_works(
    serve_limited: ServeLimited, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    url = serve_limited()

    async def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with a_bystander(url):
        visitor = Visitor(url)
        with monkeypatch.context() as patch:
            patch.setattr("gradio.route_utils.GradioUploadFile.write", full)
            refused = visitor.upload(PICTURE.read_bytes())
        assert (refused.status_code, refused.json()["detail"]) == (507, FULL)
        assert "Traceback" not in caplog.text
        assert visitor.upload(PICTURE.read_bytes()).status_code == 200


def test_what_comes_out_of_the_queue_knows_who_asked(serve_limited: ServeLimited) -> None:
    visitor = Visitor(serve_limited(), address="127.0.0.7")
    buffer = io.BytesIO()
    Image.effect_noise((31, 17), 50).save(buffer, "PNG")
    path = visitor.upload(buffer.getvalue()).json()[0]
    assert "A red circle." in visitor.ask("what is it?", [path])
    askers = [asker for asker in STORE._askers.values() if asker.client == "127.0.0.7"]
    assert [bool(asker.visit) for asker in askers] == [True]


def test_an_api_that_is_not_there_yet_says_so(serve_limited: ServeLimited) -> None:
    """Between the first moment in which somebody can connect and the API's; clients try again after a 503."""
    url = serve_limited()
    serve_limited.limited.layer.awaits_api = True  # type: ignore[attr-defined]
    answer = httpx.get(f"{url}v1/models")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert "still starting" in answer.json()["error"]["message"]
    assert httpx.get(url).status_code == 200


def test_a_request_without_a_key_is_no_guess(serve_limited: ServeLimited) -> None:
    """Any page that visitors have open can make their browsers send such; they could not log in for a while."""
    url = serve_limited(Limits(logins_per_minute=5))
    serve_limited.limited.layer.inside = Response(status_code=401)  # type: ignore[attr-defined]
    assert {httpx.get(f"{url}v1/models").status_code for _ in range(20)} == {401}
    guess = {"authorization": "Bearer x"}
    guesses = [httpx.get(f"{url}v1/models", headers=guess).status_code for _ in range(8)]
    assert guesses[:5] == [401] * 5
    assert 429 in guesses
