"""Every address that gradio has, by every method, seen by somebody who has not logged in."""

from __future__ import annotations

import re
from collections import Counter

import httpx
from playwright.sync_api import Page

from app.limits.policy import Limits
from tests.app.limits.visitors import ServeLimited
from tests.app.page.browsing import ask, done, visit

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")
OPEN = re.compile(
    r"/|/(assets|static|svelte)/.*|(/gradio_api)?/theme\.css|/favicon\.ico|/robots\.txt|/manifest\.json|/pwa_icon.*"
    r"|/gradio_api/(startup-events|app_id)/?|/login/?|/logout/?|/gradio_api/(login_check|user)/?"
)
STATIC = re.compile(
    r"/(assets|static|svelte)/.*|.*/theme\.css|/[a-z]+\.(ico|txt|json)|/pwa_icon.*|.*/(startup-events|app_id)/?"
)
FOR_ALL = ("content-security-policy", "x-content-type-options", "referrer-policy", "x-frame-options")


def test_without_a_login_nothing_but_the_login_is_open(serve_limited: ServeLimited) -> None:
    url = serve_limited(Limits(requests_at_once=10_000), auth=("me", "right")).rstrip("/")
    app = serve_limited.demo.app  # type: ignore[attr-defined]
    templates = {*app.openapi()["paths"], *(route.path for route in app.routes if hasattr(route, "path"))}
    paths = {re.sub(r"\{[^}]+\}", "x", template) for template in templates}
    paths |= {"/gradio_api/file=/etc/passwd", "/nothing", "/metrics2", "//", "/.env", "/gradio_api/../config"}
    assert len(paths) > 40
    told: Counter[int] = Counter()
    with httpx.Client(timeout=20) as client:
        for path in sorted(paths):
            for method in METHODS:
                body = b"{}" if method in ("POST", "PUT", "PATCH") else None
                answer = client.request(method, url + path, content=body)
                told[answer.status_code] += 1
                missing = [name for name in FOR_ALL if name not in answer.headers]
                assert not missing, (method, path, missing)
                assert "server" not in answer.headers
                if not STATIC.fullmatch(path):
                    assert answer.headers["cache-control"] in ("no-store", "private"), (method, path)
                assert answer.headers.get("access-control-allow-origin") is None
                if not OPEN.fullmatch(path):
                    assert answer.status_code in (401, 404, 405), (method, path, answer.status_code, answer.text[:200])
                elif method not in ("GET", "HEAD", "POST"):
                    assert answer.status_code in (404, 405), (method, path, answer.status_code)
                assert answer.status_code < 500, (method, path, answer.text[:200])
                assert "Traceback" not in answer.text
    assert told[401] > 10


def test_the_page_comes_up_in_a_browser(serve_limited: ServeLimited, page: Page) -> None:
    """With all that belongs to it, packed as a browser asks for it, and nothing that its policy refuses."""
    refused: list[str] = []
    page.on("console", lambda said: refused.append(said.text) if "Content Security Policy" in said.text else None)
    visit(page, serve_limited())
    ask(page, "what is it?")
    done(page, 1)
    assert refused == []
