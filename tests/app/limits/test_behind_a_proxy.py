"""Behind a reverse proxy that shows the page under a prefix: everything works, and each visitor has a budget."""

from __future__ import annotations

import httpx
import pytest

from app.limits.guarded_server import LimitedServer
from app.limits.policy import LOCAL, PUBLIC, Limits
from tests.app.limits.reverse_proxy import proxied
from tests.app.limits.visitors import PICTURE, ServeLimited, Visitor, arguments, listener_index
from tests.waiting import eventually


def test_visitors_of_a_trusted_proxy(serve_limited: ServeLimited) -> None:
    url = serve_limited(
        Limits(requests_per_second=0.01, requests_at_once=90),
        trusted_proxy=["127.0.0.1"],
        allow_host=["chat.example"],
        root_path="/chat",
    )
    layer = serve_limited.limited.layer  # type: ignore[attr-defined]
    with proxied(url, "/chat", host="chat.example") as outside:
        visitor = Visitor(outside, address="127.0.0.5")
        page = visitor.client.get("")
        assert 'src="/chat/assets/' in page.text or 'src="./assets/' in page.text
        config = visitor.client.get("config").json()
        assert config["root"] == "https://chat.example/chat"
        path = visitor.upload(PICTURE.read_bytes()).json()[0]
        assert visitor.client.get(f"gradio_api/file={path}").content == PICTURE.read_bytes()
        answer = visitor.ask("what is it?", [path])
        assert "A red circle." in answer
        assert "https://127." not in answer
        assert visitor.press(listener_index(url, "reset"), [None]).status_code == 200
        own = {"origin": "https://chat.example"}
        assert visitor.client.post("gradio_api/upload", files={"files": b"x"}, headers=own).status_code == 200
        foreign = {"origin": "https://evil.example"}
        assert visitor.client.post("gradio_api/upload", files={"files": b"x"}, headers=foreign).status_code == 403
        # Its budget is its own: another address has all of its, also one who forges a chain of proxies.
        assert eventually(lambda: visitor.client.get("config").status_code == 429)
        forged = {"x-forwarded-for": "127.0.0.6"}
        assert visitor.client.get("config", headers=forged).status_code == 429
        assert Visitor(outside, address="127.0.0.6", loads_page=False).client.get("config").status_code == 200
        assert {session.client for session in layer.visits.sessions.values()} == {"127.0.0.5"}


def test_cookies_that_came_by_tls_go_back_by_tls_alone(serve_limited: ServeLimited) -> None:
    url = serve_limited(trusted_proxy=["127.0.0.1"], allow_host=["chat.example"], auth=[("ann", "one")])
    form = {"username": "ann", "password": "one"}
    for scheme, is_secure in (("https", True), ("http", False)):
        own = {"x-forwarded-proto": scheme, "x-forwarded-host": "chat.example"}
        page = httpx.get(url, headers=own).headers["set-cookie"]
        assert ("; Secure" in page) is is_secure
        login = httpx.post(f"{url}login", data=form, headers=own)
        given = login.headers.get_list("set-cookie")
        assert len(given) == (1 if is_secure else 2)
        assert all("; secure" in cookie.lower() for cookie in given) is is_secure
        assert all("httponly" in cookie.lower() and "samesite=lax" in cookie.lower() for cookie in given)
    visit = {"cookie": page.partition(";")[0]}
    assert "set-cookie" not in httpx.get(url, headers=visit).headers


def test_nobody_else_says_who_a_visitor_is(serve_limited: ServeLimited) -> None:
    url = serve_limited(allow_host=["chat.example"], root_path="/chat")
    layer = serve_limited.limited.layer  # type: ignore[attr-defined]
    with proxied(url, "/chat", host="chat.example") as outside:
        config = Visitor(outside, address="127.0.0.5").client.get("config").json()
        assert not config["root"].startswith("https")
        headers = {"x-forwarded-for": "10.0.0.1", "x-forwarded-host": "evil.example", "forwarded": "for=10.0.0.1"}
        assert httpx.get(f"{url}config", headers=headers).json()["root"].startswith(url.split("/chat")[0].rstrip("/"))
        assert "10.0.0.1" not in layer._checks._requests._all._buckets


@pytest.mark.parametrize("changed", [{"trusted_proxy": ["127.0.0.1"]}, {"root_path": "/chat"}, {"host": "0.0.0.0"}])
def test_who_lets_others_in_has_tight_limits(changed: dict[str, object]) -> None:
    assert LimitedServer(arguments(**changed)).limits is PUBLIC
    assert LimitedServer(arguments()).limits is LOCAL
