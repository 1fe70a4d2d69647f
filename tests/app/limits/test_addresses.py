"""Whom a request comes from, with and without proxies, forged and honest."""

from __future__ import annotations

from typing import Any

import pytest

from app.limits.addresses import UNKNOWN, client_of, guesser_of, parse_networks, resolve
from models.errors import RequestError


def scope_from(peer: str | None, **headers: str) -> dict[str, Any]:
    named = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return {"type": "http", "scheme": "http", "client": (peer, 1) if peer else None, "headers": named}


def test_forged_headers_of_a_stranger_are_removed() -> None:
    scope = scope_from("203.0.113.5", x_forwarded_for="1.2.3.4", x_forwarded_host="evil.example", accept="x")
    assert resolve(scope, ()) == "203.0.113.5"
    assert scope["headers"] == [(b"accept", b"x")]
    assert resolve(scope_from("127.0.0.1", x_forwarded_for="1.2.3.4"), ()) == "127.0.0.1"


def test_a_trusted_proxy_is_read_from_the_end() -> None:
    proxies = parse_networks(["10.0.0.0/8"])
    forged = scope_from("10.0.0.1", x_forwarded_for="6.6.6.6, 203.0.113.5, 10.0.0.7", x_forwarded_proto="https")
    assert resolve(forged, proxies) == "203.0.113.5"
    assert forged["scheme"] == "https"
    assert resolve(scope_from("10.0.0.1", x_forwarded_for="not an address"), proxies) == "10.0.0.1"
    assert resolve(scope_from("10.0.0.1"), proxies) == "10.0.0.1"
    assert resolve(scope_from("10.0.0.1", x_forwarded_for="203.0.113.5:1234"), proxies) == "203.0.113.5"


def test_the_tunnel_is_known_by_the_host_it_asks_for() -> None:
    through = scope_from("127.0.0.1", host="abc.gradio.live", x_forwarded_for="203.0.113.5")
    assert resolve(through, (), "abc.gradio.live") == "203.0.113.5"
    beside = scope_from("127.0.0.1", host="localhost", x_forwarded_for="203.0.113.5")
    assert resolve(beside, (), "abc.gradio.live") == "127.0.0.1"


def test_a_household_is_one_client() -> None:
    assert client_of("2001:db8:1:2:3:4:5:6") == client_of("2001:db8:1:2:ffff::1")
    assert client_of("2001:db8:1:2::1") != client_of("2001:db8:1:3::1")
    assert client_of("::ffff:10.1.2.3") == "10.1.2.3"
    assert resolve(scope_from(None), ()) == "unknown"


def test_a_proxy_that_is_no_address_is_refused() -> None:
    with pytest.raises(RequestError, match="--trusted-proxy"):
        parse_networks(["my-proxy"])


def test_guesses_from_all_of_a_network_are_one_guessers() -> None:
    clients = {client_of(f"2001:db8:1:{number:x}::5") for number in range(300)}
    assert len(clients) == 300
    assert {guesser_of(client) for client in clients} == {"2001:db8:1::/48"}
    assert [guesser_of(client) for client in ("192.0.2.7", UNKNOWN)] == ["192.0.2.7", UNKNOWN]
