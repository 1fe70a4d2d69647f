"""What a client's bytes may cost before they are a request, and that a body comes whole in whatever pieces."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterable

import pytest

from app.limits import connections
from app.limits.budgets import CONNECTING
from app.limits.policy import Limits
from tests.app.limits.visitors import ServeLimited, Visitor, a_bystander
from tests.waiting import eventually

HEAD = b"POST /gradio_api/queue/join HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"


def connect(url: str, address: str) -> socket.socket:
    return socket.create_connection(("127.0.0.1", int(url.rsplit(":", 1)[1].strip("/"))), 20, (address, 0))


def test_chunks_of_one_byte_leave_the_processor_to_others(
    serve_limited: ServeLimited, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = serve_limited(Limits(processor_seconds=0.5))
    opened = serve_limited.limited.connections  # type: ignore[attr-defined]
    pieces: list[int] = []
    read, took = connections.H11Protocol.data_received, opened.reading_took

    def read_and_note(self: connections.LimitedProtocol, data: bytes) -> None:
        if self.limited_client == "127.0.0.7":
            pieces.append(len(data))
        read(self, data)

    def took_long(connection: connections.LimitedProtocol, seconds: float) -> None:
        took(connection, 1.0 if connection.limited_client == "127.0.0.7" else 0.0)

    monkeypatch.setattr(connections.H11Protocol, "data_received", read_and_note)
    monkeypatch.setattr(opened, "reading_took", took_long)
    begun = time.monotonic()
    monkeypatch.setattr(opened.share, "_clock", lambda: begun)  # nobody gets more than what there is at once
    with connect(url, "127.0.0.7") as attacker:
        data = HEAD + b"1\r\nx\r\n" * 1_000_000
        sending = threading.Thread(target=_send_until_closed, args=(attacker, data), daemon=True)
        sending.start()
        with a_bystander(url):
            assert "A red circle." in Visitor(url).ask("hello")
        assert sending.is_alive()  # the system holds the rest, as far as it does, and the client waits
        attacker.shutdown(socket.SHUT_RDWR)
    sending.join(20)
    assert pieces == [connections.KIB] * 2  # as one that connects, and as one that has no cookie


def _send_until_closed(attacker: socket.socket, data: bytes) -> None:
    with contextlib.suppress(OSError):
        attacker.sendall(data)


def test_a_visitor_does_not_wait_for_the_bodies_of_its_address(
    serve_limited: ServeLimited, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that came from one address waited in one line, and was served alike while nobody else was there."""
    url = serve_limited(Limits(processor_seconds=0.5))
    share = serve_limited.limited.connections.share  # type: ignore[attr-defined]
    neighbour = Visitor(url, address="127.0.0.7")
    took = share.took
    monkeypatch.setattr(share, "took", lambda asker, seconds: took(asker, 0.0 if asker.visit else 0.6))
    begun = time.monotonic()
    monkeypatch.setattr(share, "_clock", lambda: begun)  # who owes something is never served again
    with contextlib.ExitStack() as stack:
        for _ in range(3):
            attacker = stack.enter_context(connect(url, "127.0.0.7"))
            attacker.sendall(HEAD + b"1\r\nx\r\n" * 2000)
        assert eventually(lambda: any(not asker.visit for asker in share._lines))
        assert "A red circle." in neighbour.ask("hello")
        assert "A red circle." in Visitor(url, address="127.0.0.7").ask("hello")  # who comes now for the first time


@pytest.mark.parametrize("size", [1, connections.KIB - 1, connections.KIB + 1, 100_000])
def test_a_body_is_whole_in_whatever_pieces_it_came(size: int, serve_limited: ServeLimited) -> None:
    url = serve_limited(Limits())
    body = json.dumps({"data": ["y" * 300_000], "fn_index": 10_000}).encode()[: None if size > 1 else 2000]
    with connect(url, "127.0.0.1") as client:
        head = (
            f"POST /gradio_api/queue/join HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        )
        data = head + body + b"GET /config HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        for start in range(0, len(data), size):
            client.sendall(data[start : start + size])
        answers = b"".join(iter(lambda: client.recv(65536), b""))
    assert answers.count(b"HTTP/1.1 ") == 2  # the one refused for what it says, not for being cut; the other served
    assert b"no such function" in answers if size > 1 else b"not JSON" in answers
    assert answers.count(b"HTTP/1.1 200") == 1


def test_what_is_no_http_after_a_refused_body_ends_the_connection(
    serve_limited: ServeLimited, caplog: pytest.LogCaptureFixture
) -> None:
    """Its answer has begun, so that nothing can be said about the rest."""
    url = serve_limited(Limits(json_bytes=2000))
    with a_bystander(url), connect(url, "127.0.0.7") as attacker:
        attacker.sendall(HEAD + b"fff\r\n" + b"x" * 4095 + b"\r\n")
        assert attacker.recv(100).startswith(b"HTTP/1.1 413")
        attacker.sendall(b"no length\r\nx\r\n")
        with contextlib.suppress(ConnectionResetError):
            assert b"HTTP/1.1 400" not in b"".join(iter(lambda: attacker.recv(65536), b""))
    assert [record.name for record in caplog.records if record.exc_info] == []


def test_idle_connections_of_many_addresses_keep_nobody_out(serve_limited: ServeLimited) -> None:
    url = serve_limited(Limits(connections=40, connections_per_client=20, idle_seconds=60))
    opened = serve_limited.limited.connections  # type: ignore[attr-defined]
    with contextlib.ExitStack() as stack:

        def hold(addresses: Iterable[str], number: int) -> None:
            for address in addresses:
                for _ in range(number):
                    stack.enter_context(connect(url, address))

        hold([f"127.0.0.{number}" for number in range(20, 24)], 15)
        with a_bystander(url):
            assert eventually(lambda: opened.total == 40)
            hold([f"127.0.1.{number}" for number in range(1, 60)], 1)
            assert "A red circle." in Visitor(url, address="127.0.0.3").ask("hello")
        assert opened.refused == 0
        assert opened.total <= 40


def test_connections_in_use_of_many_addresses_keep_nobody_out(serve_limited: ServeLimited) -> None:
    """Nor does whoever has many take what idles of somebody who has few."""
    url = serve_limited(Limits(connections=60, connections_per_client=30))
    opened = serve_limited.limited.connections  # type: ignore[attr-defined]
    with a_bystander(url), contextlib.ExitStack() as stack:
        for number in range(90):
            busy = stack.enter_context(connect(url, f"127.0.1.{number % 3}"))
            busy.sendall(HEAD)  # and nothing of its body
        assert eventually(lambda: opened.total == 60 and sum(one.is_busy for one in opened._all) >= 58)
        for number in range(4):
            assert "A red circle." in Visitor(url, address=f"127.0.0.{20 + number}").ask("hello")
        assert opened.total <= 60


def test_who_connects_during_a_flood_need_not_try_again(serve_limited: ServeLimited) -> None:
    """A connection that finds no room in the system's queue comes a second later, however little there is to do."""
    url, begun, ended = serve_limited(), threading.Event(), threading.Event()

    def hold_the_loop() -> None:
        begun.set()
        ended.wait(60)

    loop = serve_limited.demo.server.servers[0].get_loop()  # type: ignore[attr-defined]
    loop.call_soon_threadsafe(hold_the_loop)
    with contextlib.ExitStack() as stack:
        stack.callback(ended.set)
        assert begun.wait(60)
        for _ in range(300):
            stack.enter_context(connect(url, "127.0.0.7"))


def test_what_may_not_stay_is_closed_before_anything_is_made_for_it(
    serve_limited: ServeLimited, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, made = serve_limited(), []
    opened = serve_limited.limited.connections  # type: ignore[attr-defined]
    add = opened.add

    def add_and_note(connection: connections.LimitedProtocol, address: str) -> bool:
        made.append(address)
        return bool(add(connection, address))

    monkeypatch.setattr(opened, "add", add_and_note)
    monkeypatch.setattr(opened, "may_come", lambda address: address != "127.0.0.7")
    with a_bystander(url), connect(url, "127.0.0.7") as refused:
        assert refused.recv(1) == b""
    assert made
    assert "127.0.0.7" not in made


def test_a_client_whose_connections_all_carry_answers_gets_no_more(serve_limited: ServeLimited) -> None:
    url = serve_limited(Limits(connections_per_client=4))
    opened = serve_limited.limited.connections  # type: ignore[attr-defined]
    with contextlib.ExitStack() as stack:
        for number in range(4):
            busy = stack.enter_context(connect(url, "127.0.0.7"))
            busy.sendall(b"GET /gradio_api/heartbeat/h%d HTTP/1.1\r\nHost: localhost\r\n\r\n" % number)
            assert busy.recv(12) == b"HTTP/1.1 200"
        with connect(url, "127.0.0.7") as one_more:
            assert one_more.recv(1) == b""
        assert opened.refused == 1
        assert opened.may_come("127.0.0.8")


def idle_neighbour(url: str, opened: connections.OpenConnections) -> tuple[Visitor, connections.LimitedProtocol]:
    """A visitor who has read the page, and the only connection there is, which is theirs."""
    neighbour = Visitor(url, address="127.0.0.7")
    assert eventually(lambda: [one.is_busy for one in opened._all] == [False])
    (idle,) = opened._all
    return neighbour, idle


def test_requests_that_do_not_come_make_room_for_others_of_their_address(serve_limited: ServeLimited) -> None:
    """Slow uploads held all connections that an address may have, and the only idle one was its neighbour's."""
    url = serve_limited(Limits(connections_per_client=4))
    opened = serve_limited.limited.connections  # type: ignore[attr-defined]
    neighbour, idle = idle_neighbour(url, opened)
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(connect(url, "127.0.0.7")) for _ in range(3)]
        for one in slow:
            one.sendall(HEAD)  # and nothing of its body
        assert eventually(lambda: sum(one.is_busy for one in opened._all) == 3)
        newcomer = stack.enter_context(connect(url, "127.0.0.7"))
        assert slow[0].recv(1) == b""
        newcomer.sendall(b"GET /config HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert newcomer.recv(12) == b"HTTP/1.1 200"
        assert idle in opened._all
        assert "A red circle." in neighbour.ask("hello")


def test_a_refused_request_that_goes_on_coming_makes_room_too(
    serve_limited: ServeLimited, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is left of it is read for a while, so that its sender sees the answer; all connections were held by that."""
    monkeypatch.setattr("app.limits.bodies.DRAIN_SECONDS", 15.0)
    url = serve_limited(Limits(connections_per_client=3))
    opened = serve_limited.limited.connections  # type: ignore[attr-defined]
    neighbour, idle = idle_neighbour(url, opened)
    with contextlib.ExitStack() as stack:
        for _ in range(2):
            slow = stack.enter_context(connect(url, "127.0.0.7"))
            slow.sendall(b"POST /nothing HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
            assert slow.recv(12) == b"HTTP/1.1 404"
        newcomer = stack.enter_context(connect(url, "127.0.0.7"))
        newcomer.sendall(b"GET /config HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert newcomer.recv(12) == b"HTTP/1.1 200"
        assert opened.refused == 0
        assert idle in opened._all
        assert "A red circle." in neighbour.ask("hello")


def test_who_connects_is_known_before_it_makes_room(
    serve_limited: ServeLimited, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A visitor's new connection waited behind hundreds of others until it was the oldest, and was closed for one."""
    url = serve_limited(Limits(processor_seconds=0.5))
    opened = serve_limited.limited.connections  # type: ignore[attr-defined]
    neighbour, share = Visitor(url, address="127.0.0.7"), opened.share
    took = share.took
    monkeypatch.setattr(share, "took", lambda asker, seconds: took(asker, 0.6 if asker.visit == CONNECTING else 0.0))
    begun = time.monotonic()
    monkeypatch.setattr(share, "_clock", lambda: begun)  # who owes something is never served again
    cookie = "; ".join("=".join(one) for one in neighbour.client.cookies.items())
    with connect(url, "127.0.0.7") as slow, connect(url, "127.0.0.7") as again:
        slow.sendall(b"GET / HTTP/1.1\r\n")
        assert eventually(lambda: any(one.spent and not one.scope for one in opened._all))
        slow.sendall(b"x: ")
        assert eventually(lambda: any(asker.visit == CONNECTING for asker in share._lines))
        again.sendall(f"GET /config HTTP/1.1\r\nHost: localhost\r\nCookie: {cookie}\r\n\r\n".encode())
        assert again.recv(12) == b"HTTP/1.1 200"


def test_one_without_an_answer_makes_room_however_many_have_theirs(
    serve_limited: ServeLimited, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "LOOKED_AT", 2)
    url = serve_limited(Limits(connections_per_client=6))
    opened = serve_limited.limited.connections  # type: ignore[attr-defined]
    neighbour = Visitor(url, address="127.0.0.7")
    with contextlib.ExitStack() as stack:
        stack.enter_context(neighbour.client.stream("GET", f"/gradio_api/heartbeat/{neighbour.session}"))
        held = [stack.enter_context(connect(url, "127.0.0.7")) for _ in range(5)]
        for number, one in enumerate(held[:4]):
            one.sendall(b"GET /gradio_api/heartbeat/h%d HTTP/1.1\r\nHost: localhost\r\n\r\n" % number)
            assert one.recv(12) == b"HTTP/1.1 200"
        held[4].sendall(HEAD)
        assert eventually(lambda: sum(one.is_busy for one in opened._all) == 6)
        for _ in range(3):
            stack.enter_context(connect(url, "127.0.0.7")).sendall(HEAD)
        assert held[4].recv(1) == b""
        assert eventually(lambda: opened.total == 6)
        assert opened.refused == 0
