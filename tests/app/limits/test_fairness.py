"""What all visitors share, when somebody takes much of it: connections, memory for messages, threads."""

from __future__ import annotations

import socket
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from gradio.server_messages import ProcessCompletedMessage

from app.limits.guarded_request import PIECE
from app.limits.policy import Limits
from app.page.handlers import Handlers, View
from app.page.page_state import PageState
from engine.asker import Asker
from tests.app.limits.visitors import ServeLimited, Visitor, a_bystander, listener_index
from tests.fakes import ScriptedModel
from tests.waiting import eventually


def test_who_reads_nothing_is_cut_off(serve_limited: ServeLimited) -> None:
    url = serve_limited(Limits(idle_seconds=0.4, unread_seconds=0.4))
    port = int(url.rsplit(":", 1)[1].strip("/"))
    connections = serve_limited.limited.connections  # type: ignore[attr-defined]
    with a_bystander(url), socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # or the system reads much for it
        deaf.bind(("127.0.0.8", 0))
        deaf.connect(("127.0.0.1", port))
        deaf.sendall(b"GET /config HTTP/1.1\r\nHost: localhost\r\n\r\n" * 100)
        assert eventually(lambda: any(one._unread_since for one in connections._by_client.get("127.0.0.8", ())))
        assert eventually(lambda: "127.0.0.8" not in connections._by_client)


def test_who_reads_no_answers_asks_no_more(serve_limited: ServeLimited) -> None:
    url = serve_limited(Limits(unread_messages=20))
    with a_bystander(url):
        deaf = Visitor(url)
        statuses = [deaf.join("hello").status_code for _ in range(60)]
        assert statuses[0] == 200
        assert eventually(lambda: deaf.join("hello").status_code == 429)
        assert "not read the answers" in deaf.join("hello").text


def test_a_page_that_never_said_it_is_there_is_left_all_the_same(
    serve_limited: ServeLimited, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or its conversation would stay in memory for good."""
    left: list[PageState] = []
    monkeypatch.setattr(Handlers, "leave", lambda self, page: left.append(page))
    url = serve_limited(Limits(session_seconds=0.0))
    checks = serve_limited.limited.layer._checks  # type: ignore[attr-defined]
    with a_bystander(url):
        silent = Visitor(url)
        assert "A red circle." in silent.ask("hello")
        assert left == []
        assert eventually(lambda: checks.tidy() or bool(left))
        assert [len(page.session.exchanges) for page in left] == [1]


def test_presses_of_one_address_leave_threads_to_others(
    serve_limited: ServeLimited, monkeypatch: pytest.MonkeyPatch
) -> None:
    running, go_on = threading.Semaphore(0), threading.Event()

    def reset(self: Handlers, page: PageState) -> View:
        running.release()
        assert go_on.wait(20)
        return View()

    monkeypatch.setattr(Handlers, "reset", reset)
    url = serve_limited(Limits(presses_per_client=2))
    index = listener_index(url, "reset")
    crowd = [Visitor(url, address="127.0.0.9") for _ in range(4)]
    with ThreadPoolExecutor(5) as threads:
        pressed = [threads.submit(visitor.press, index, [None]) for visitor in crowd]
        assert running.acquire(timeout=20)
        assert running.acquire(timeout=20)
        pressed.append(threads.submit(Visitor(url).press, index, [None]))
        assert running.acquire(timeout=20)
        assert not running.acquire(blocking=False)  # two of one address and one of another, and the rest waits
        go_on.set()
        assert [one.result().status_code for one in pressed] == [200] * 5


def test_who_waits_is_not_told_of_everybody_elses_turn(
    serve_limited: ServeLimited, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sixty who waited got six hundred messages a second, each of them as much work as a word of an answer."""
    monkeypatch.setattr("app.page.components.SECONDS_BETWEEN_RANKS", 3600.0)
    monkeypatch.setattr("app.page.components.MAX_STREAMS", 1)
    gate = threading.Semaphore(0)
    url = serve_limited(model=ScriptedModel(default="A red circle.", gate=gate))
    crowd = [Visitor(url) for _ in range(4)]
    for visitor in crowd:
        assert visitor.join("hello").status_code == 200
    gate.release(1000)
    told = [[update["msg"] for update in visitor.updates()].count("estimation") for visitor in crowd]
    assert max(told) == 1


def test_each_update_of_an_answer_counts_for_who_asked(
    serve_limited: ServeLimited, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And who has had his share waits with the next, while others want something: many answers took all of it."""
    gate = threading.Semaphore(0)
    url = serve_limited(model=ScriptedModel(default="A red circle.", gate=gate))
    share = serve_limited.limited.connections.share  # type: ignore[attr-defined]
    took: Counter[str] = Counter()
    turns: list[str] = []

    def count(asker: Asker, seconds: float) -> None:
        took[asker.client] += seconds > 0

    async def turn(asker: Asker) -> None:
        turns.append(asker.client)

    asker = Visitor(url, address="127.0.0.9")
    assert asker.join("hello").status_code == 200
    queue = serve_limited.demo._queue  # type: ignore[attr-defined]
    assert eventually(lambda: any(queue.active_jobs))
    monkeypatch.setattr(share, "took", count)
    monkeypatch.setattr(share, "turn", turn)
    gate.release(1000)
    assert eventually(lambda: not any(queue.active_jobs))  # nothing is requested meanwhile, and still
    assert took["127.0.0.9"] > 0
    assert turns.count("127.0.0.9") > 0


def test_what_a_stream_sends_counts_for_who_reads_it(
    serve_limited: ServeLimited, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is written in a task of its own: with long chats that was half of the server's thread, and nobody's."""
    url = serve_limited()
    took: Counter[str] = Counter()
    dump = ProcessCompletedMessage.model_dump

    def large(message: ProcessCompletedMessage, **settings: Any) -> dict[str, Any]:
        end = time.thread_time() + 0.5
        while time.thread_time() < end:
            pass
        return dump(message, **settings)

    def count(asker: Asker, seconds: float) -> None:
        took[asker.client] += seconds  # type: ignore[assignment]

    visitor, other = Visitor(url, address="127.0.0.9"), Visitor(url, address="127.0.0.8")
    share = serve_limited.limited.connections.share  # type: ignore[attr-defined]
    monkeypatch.setattr(share, "took", count)
    other.ask("hello")
    monkeypatch.setattr(ProcessCompletedMessage, "model_dump", large)
    visitor.ask("hello")
    assert took["127.0.0.9"] >= 0.5 > took["127.0.0.8"] > 0


def test_each_piece_of_a_file_waits_for_its_clients_turn(
    serve_limited: ServeLimited, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sixty connections that fetched a large file made somebody else's conversation three times as long."""
    visitor = Visitor(serve_limited(), address="127.0.0.9")
    path = visitor.upload(bytes(4_000_000)).json()[0]
    share = serve_limited.limited.connections.share  # type: ignore[attr-defined]
    turns: Counter[str] = Counter()

    async def turn(asker: Asker) -> None:
        turns[asker.client] += 1

    monkeypatch.setattr(share, "turn", turn)
    assert len(visitor.client.get(f"/gradio_api/file={path}").content) == 4_000_000
    assert turns["127.0.0.9"] > 4_000_000 // PIECE


def test_a_flood_from_an_address_leaves_its_visitors_their_requests(
    serve_limited: ServeLimited, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind one router, a flood of others was answered to everybody with "too many requests"."""
    monkeypatch.setattr("app.limits.request_checks.PAUSE", 0.0)
    url = serve_limited(Limits(requests_per_second=0.001, requests_at_once=100))
    neighbour, flooding = Visitor(url), Visitor(url)
    strange = httpx.Client(base_url=url)
    Visitor.opened.append(strange)
    for client in (strange, flooding.client):
        assert [client.get("/nothing").status_code for _ in range(60)][-1] == 429
    assert "A red circle." in neighbour.ask("hello")
    assert strange.get("/config").status_code == 429
    assert "A red circle." in Visitor(url).ask("hello")  # whose page was opened without a cookie, just now
