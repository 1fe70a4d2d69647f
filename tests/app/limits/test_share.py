"""With --share: a stand-in for gradio's tunnel, which connects from this machine and says whom it brings."""

from __future__ import annotations

import httpx
import pytest

from app.limits.policy import PUBLIC
from tests.app.limits.visitors import PICTURE, ServeLimited, Visitor

LINK = "0123456789abcdef.gradio.live"


def through_tunnel(url: str, address: str) -> Visitor:
    """A visitor of the share link."""
    visitor = Visitor(url, loads_page=False)
    visitor.client.headers.update({"host": LINK, "x-forwarded-for": address, "x-forwarded-proto": "https"})
    jar = visitor.client.cookies.jar  # whose cookies are for TLS alone, which ends at the other end of the tunnel

    def with_cookies(request: httpx.Request) -> None:
        request.headers["cookie"] = "; ".join(f"{cookie.name}={cookie.value}" for cookie in jar)

    visitor.client.event_hooks["request"].append(with_cookies)
    return visitor


def test_a_share_link_has_tight_limits_and_tells_its_visitors_apart(
    serve_limited: ServeLimited, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gradio.networking.setup_tunnel", lambda **_: f"https://{LINK}")
    url = serve_limited(share=True, auth=("me", "right"))
    limited = serve_limited.limited  # type: ignore[attr-defined]
    assert limited.limits is PUBLIC
    guesser, visitor = through_tunnel(url, "203.0.113.5"), through_tunnel(url, "203.0.113.6")
    for path in ("config", "gradio_api/info", "gradio_api/heartbeat/x", "gradio_api/file=demo.py"):
        assert visitor.client.get(path).status_code == 401, path
    page = visitor.client.get("/")
    assert "gradio.s3-us-west-2.amazonaws.com" in page.headers["content-security-policy"]  # whose script it loads
    wrong = {"username": "me", "password": "wrong"}
    statuses = [guesser.client.post("/login", data=wrong).status_code for _ in range(int(PUBLIC.logins_per_minute) + 3)]
    assert statuses[-1] == 429
    assert visitor.client.post("/login", data=wrong | {"password": "right"}).status_code == 200
    assert visitor.client.get("/config").json()["root"] == f"https://{LINK}"
    foreign = {"origin": "https://evil.gradio.live"}
    assert visitor.client.post("/gradio_api/upload", files={"files": b"x"}, headers=foreign).status_code == 403
    path = visitor.upload(PICTURE.read_bytes()).json()[0]
    assert "A red circle." in visitor.ask("what is it?", [path])
    assert {session.client for session in limited.layer.visits.sessions.values()} == {"203.0.113.6"}
    other = {"host": "other.gradio.live", "x-forwarded-for": "203.0.113.7"}
    assert httpx.get(url, headers=other).status_code == 421
