"""Names the server goes by, and pages of other sites."""

from __future__ import annotations

from typing import Any

import pytest

from app.limits.refusal import Refused
from app.limits.web_origins import Origins


def scope_with(**headers: str) -> dict[str, Any]:
    return {"headers": [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]}


@pytest.mark.parametrize("host", ["localhost:7860", "127.0.0.1", "192.168.1.7:7860", "[::1]:7860", "chat.example:80"])
def test_own_names_and_all_addresses(host: str) -> None:
    Origins(["chat.example"]).check(scope_with(host=host), changes_something=True)


FOREIGN = ["evil.example", "", "localhost.evil.example", "127.0.0.1.evil.example", "a:b:c"]
FOREIGN += ["127.0.0.1:80@evil.example", "[::1]:80@evil.example", "[::1].evil.example", "localhost:80/x", "localhost:x"]


@pytest.mark.parametrize("host", FOREIGN)
def test_foreign_names_are_refused(host: str) -> None:
    with pytest.raises(Refused) as refused:
        Origins([]).check(scope_with(host=host), changes_something=False)
    assert refused.value.status == 421


def test_two_hosts_and_a_foreign_forwarded_host_are_refused() -> None:
    two = {"headers": [(b"host", b"localhost"), (b"host", b"localhost")]}
    for scope in (two, scope_with(host="localhost", x_forwarded_host="evil.example")):
        with pytest.raises(Refused):
            Origins([]).check(scope, changes_something=False)


def test_a_wildcard_is_for_names_below_it() -> None:
    origins = Origins(["*.chat.example"])
    assert origins.is_own("a.chat.example")
    assert not origins.is_own("chat.example.evil")


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost:8000", "file://", "http://["])
def test_foreign_pages_may_change_nothing(origin: str) -> None:
    scope = scope_with(host="localhost:7860", origin=origin)
    with pytest.raises(Refused) as refused:
        Origins([]).check(scope, changes_something=True)
    assert refused.value.status == 403
    Origins([]).check(scope, changes_something=False)


def test_a_browser_without_origin_says_where_it_is() -> None:
    with pytest.raises(Refused):
        Origins([]).check(scope_with(host="localhost", sec_fetch_site="cross-site"), changes_something=True)
    Origins([]).check(scope_with(host="localhost", sec_fetch_site="same-origin"), changes_something=True)
    Origins([]).check(scope_with(host="localhost:1", origin="http://localhost:1"), changes_something=True)
