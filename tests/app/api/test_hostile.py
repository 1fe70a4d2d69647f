"""Clients that want too much, beside one that only wants its answer; many at once; and those that leave."""

from __future__ import annotations

import json
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx
import openai
from PIL import Image

from engine.stats import IN_USE
from tests.app.api.conftest import BUNDLED
from tests.app.api.serving import Api, data_uri, joined, request, said
from tests.app.helpers import scene
from tests.waiting import eventually

QUESTION = said("[grounding] describe this image in detail", scene())
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n{"
PLACES = 12  # of the bundled engine: 4 at once, 8 more in the queue


def answer_of(client: openai.OpenAI) -> str:
    """A long greedy answer, streamed."""
    asked = request(QUESTION, model=BUNDLED, temperature=0, stream=True)
    return joined(list(client.chat.completions.create(**asked)))


def hostile_bodies() -> Iterator[tuple[Any, int]]:
    """Bodies that want too much, and how each is answered."""
    picture = {"type": "image_url", "image_url": {"url": data_uri(scene())}}
    bomb = {"type": "image_url", "image_url": {"url": data_uri(Image.new("1", (20_000, 20_000)))}}
    yield request(said("word " * 1_000_000), model=BUNDLED), 400
    yield request({"role": "user", "content": [picture] * 1000}, model=BUNDLED), 400
    yield request({"role": "user", "content": [bomb]}, model=BUNDLED), 400
    yield b"[" * 5_000_000, 400
    yield b'{"a":' * 1_000_000, 400
    yield b'{"a":[' + b"{}," * 2_000_000 + b"1]}", 400
    yield b" " * 45_000_000, 413
    yield request(said("hi"), model="x" * 1_000_000), 404
    yield request(said("hi"), model=BUNDLED, task="x" * 1_000_000), 400
    yield request(said("hi", role="x" * 1_000_000), model=BUNDLED), 400


@contextmanager
def slow_clients(api: Api, count: int) -> Iterator[None]:
    """Connections whose bodies never come."""
    url = httpx.URL(api.url)
    with ExitStack() as stack:
        for _ in range(count):
            connection = stack.enter_context(socket.create_connection((url.host, url.port)))
            connection.sendall(HEAD)
        yield


def is_idle(api: Api) -> bool:
    """Whether nothing is held for any client."""
    stats = api.stats()
    return not any(getattr(stats, name) for name in IN_USE) and api.service.budget.held == 0


def test_a_bystanders_answer_is_not_disturbed(bundled: Api) -> None:
    with bundled.client() as client, slow_clients(bundled, 60):
        expected = answer_of(client)
        answers: list[str] = []
        is_over = threading.Event()

        def stand_by() -> None:
            while not is_over.is_set():
                answers.append(answer_of(client))

        bystander = threading.Thread(target=stand_by)
        bystander.start()
        try:
            for body, status in hostile_bodies():
                answer = bundled.post("/v1/chat/completions", body)
                assert answer.status_code == status
                assert len(answer.json()["error"]["message"]) < 500
        finally:
            is_over.set()
            bystander.join()
        assert answers
        assert set(answers) == {expected}
    assert eventually(lambda: is_idle(bundled))


def test_many_at_once_get_the_same_answer_or_are_told_to_come_back(bundled: Api) -> None:
    def ask(number: int) -> str:
        try:
            return answer_of(client)
        except openai.RateLimitError as error:
            return f"come back in {error.response.headers['retry-after']} s"

    with bundled.client() as client, ThreadPoolExecutor(32) as pool:
        expected = answer_of(client)
        answers = Counter(pool.map(ask, range(32)))
    assert answers.keys() <= {expected, "come back in 5 s"}
    assert answers[expected] >= PLACES
    assert eventually(lambda: is_idle(bundled))


def test_clients_that_leave_hold_nothing(bundled: Api) -> None:
    url = httpx.URL(bundled.url)

    def leave(number: int) -> None:
        body = json.dumps(request(QUESTION, model=BUNDLED, stream=number % 2 == 0)).encode()
        head = HEAD[: HEAD.index(b"1000000")] + b"%d\r\n\r\n" % len(body)
        with socket.create_connection((url.host, url.port)) as connection:
            connection.sendall(head + body[: len(body) - number % 3])  # some leave before they have said all
            if number % 6 == 0:
                assert connection.recv(1)

    with ThreadPoolExecutor(PLACES) as pool:
        list(pool.map(leave, range(PLACES)))
    assert eventually(lambda: is_idle(bundled))
    with bundled.client() as client:
        assert answer_of(client)
