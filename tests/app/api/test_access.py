"""Who may ask: keys, the page's login, other sites' pages."""

from __future__ import annotations

import argparse
import base64
from collections.abc import Iterator

import httpx
import openai
import pytest
from gradio_client import Client  # type: ignore[import-untyped]

from app.api.access import Access
from app.arguments import parse_arguments
from app.server import access, login
from tests.app.api.conftest import ANSWER
from tests.app.api.serving import NAME, Api, request, said, serve_api
from tests.fakes import ScriptedModel

KEY = "sk-local-1"
ROUTES = (
    ("GET", "/v1/models"),
    ("GET", f"/v1/models/{NAME}"),
    ("POST", "/v1/chat/completions"),
    *(("POST", f"/v1/{skill}") for skill in ("query", "caption", "detect", "point")),
    ("GET", "/health"),
    ("GET", "/metrics"),
    ("GET", "/v1/nothing"),
)
PAGE_ROUTES = (
    ("GET", "/config"),
    ("GET", "/gradio_api/info"),
    ("POST", "/gradio_api/call/chat"),
    ("POST", "/gradio_api/upload"),
    ("POST", "/gradio_api/queue/join"),
)


def arguments(*argv: str) -> argparse.Namespace:
    return parse_arguments(argv)


def served(args: argparse.Namespace) -> Iterator[Api]:
    """A server that was started with these arguments."""
    with serve_api(ScriptedModel(), auth=login(args), access_for=lambda app: access(args, app)) as api:
        yield api


@pytest.fixture(scope="module")
def keyed(no_stray_event_loops: None) -> Iterator[Api]:
    yield from served(arguments("--api-key", KEY, "--allow-origin", "https://my.site"))


@pytest.fixture(scope="module")
def with_login(no_stray_event_loops: None) -> Iterator[Api]:
    yield from served(arguments("--auth", "ann:secret"))


@pytest.mark.parametrize(("method", "path"), [*ROUTES, *PAGE_ROUTES])
def test_every_route_asks_for_the_key(keyed: Api, with_login: Api, method: str, path: str) -> None:
    for api in (keyed, with_login):
        for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "Basic !"}):
            answer = httpx.request(method, api.url.rstrip("/") + path, headers=headers)
            assert answer.status_code == 401, answer.text
            if (method, path) in ROUTES:
                assert answer.json()["error"]["code"] == "invalid_api_key"
                assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": f"Bearer {KEY}"},
        {"authorization": f"bearer  {KEY}"},
        {"x-api-key": KEY},
        {"x-moondream-auth": KEY},
        {"authorization": "Basic " + base64.b64encode(f"any:{KEY}".encode()).decode()},
        {"x-api-key": KEY, "authorization": "Bearer other"},
    ],
)
def test_the_key_opens_from_wherever_clients_put_it(keyed: Api, headers: dict[str, str]) -> None:
    for method, path in ROUTES:
        answer = httpx.request(method, keyed.url.rstrip("/") + path, headers=headers)
        assert answer.status_code not in (401, 403, 500)


def test_openais_client(keyed: Api) -> None:
    with keyed.client(KEY) as client:
        assert client.chat.completions.create(**request(said("hi"))).choices[0].message.content == ANSWER
    with keyed.client("wrong") as client, pytest.raises(openai.AuthenticationError, match="A key is needed"):
        client.models.list()


def test_the_key_opens_the_page(keyed: Api) -> None:
    client = Client(keyed.url, auth=("anyone", KEY), verbose=False)
    assert client.predict(None, "hi", api_name="/chat")[0] == ANSWER
    with pytest.raises(Exception, match="Could not login"):
        Client(keyed.url, auth=("anyone", "wrong"), verbose=False)


def test_name_and_password_of_the_page_open_the_api(with_login: Api) -> None:
    with with_login.client("ann:secret") as client:
        assert client.models.list().data[0].id == NAME
    assert with_login.get("/metrics", auth=("ann", "secret")).status_code == 200
    for wrong in (("ann", "Secret"), ("bob", "secret")):
        assert with_login.get("/metrics", auth=wrong).status_code == 401


def test_who_has_logged_in_may_look_but_not_ask(with_login: Api) -> None:
    """A cookie comes along by itself, so it must not let another site's page ask."""
    with httpx.Client(base_url=with_login.url) as browser:
        assert browser.post("/login", data={"username": "ann", "password": "secret"}).status_code == 200
        assert browser.get("/metrics").status_code == 200
        assert browser.post("/v1/chat/completions", json=request(said("hi"))).status_code == 401


def test_pages_of_other_sites(keyed: Api) -> None:
    bearer = {"authorization": f"Bearer {KEY}"}
    allowed = keyed.get("/v1/models", headers={**bearer, "origin": "https://my.site"})
    assert allowed.headers["access-control-allow-origin"] == "https://my.site"
    own = keyed.get("/v1/models", headers={**bearer, "origin": keyed.url.rstrip("/")})
    assert own.status_code == 200
    for path in ("/v1/models", "/health", "/metrics"):
        other = keyed.get(path, headers={**bearer, "origin": "https://other.site"})
        assert (other.status_code, other.json()["error"]["code"]) == (403, "origin_not_allowed")
        assert "access-control-allow-origin" not in other.headers


def test_preflight(keyed: Api) -> None:
    asked = {
        "origin": "https://my.site",
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization, content-type, x-stainless-os",
    }
    answer = httpx.options(f"{keyed.url}v1/chat/completions", headers=asked)
    assert answer.status_code == 204
    assert answer.headers["access-control-allow-headers"] == asked["access-control-request-headers"]
    assert answer.headers["access-control-allow-origin"] == "https://my.site"
    refused = httpx.options(f"{keyed.url}v1/chat/completions", headers={**asked, "origin": "https://other.site"})
    assert refused.status_code == 403


def test_every_site_may_be_allowed() -> None:
    assert Access(origins=["*"]).allows("https://any.site")
    assert Access(origins=["https://My.site/"]).allows("https://my.site")
    assert not Access(origins=["https://my.site"]).allows("https://my.site.evil.org")


def test_the_key_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINIVLM_API_KEY", KEY)
    assert arguments().api_key == KEY
    monkeypatch.setenv("MINIVLM_API_KEY", "")
    assert arguments().api_key is None
    assert login(arguments()) is None


@pytest.mark.parametrize("key", ["", "two words", "Schlüssel"])
def test_a_key_that_no_header_holds(key: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        arguments("--api-key", key)
    assert "without spaces" in capsys.readouterr().err


def test_the_page_keeps_its_own_login() -> None:
    assert login(arguments("--auth", "ann:secret", "--api-key", KEY)) == ("ann", "secret")
