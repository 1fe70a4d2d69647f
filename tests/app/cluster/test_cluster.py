"""A real cluster on this machine: two replicas of a bundled model, and clients who do not notice."""

from __future__ import annotations

import json
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from benchmarks.random_models import picture
from tests.app.cluster.asking import (
    CONFIG,
    MODEL,
    QUESTIONS,
    SETTINGS,
    conversation,
    counters,
    first_message,
    replicas,
)
from tests.waiting import eventually

pytestmark = pytest.mark.usefixtures("with_ray")


def test_answers_are_those_of_one_process_and_later_turns_find_their_prefix(url: str) -> None:
    from engine.chat_engine import ChatEngine
    from models.conversation import Sampling, Turn
    from models.loader import load_model

    with ThreadPoolExecutor(16) as threads:
        told = list(threads.map(lambda number: conversation(url, number), range(16)))
    later = [cached for answers in told for _, cached in answers[1:]]
    assert sum(cached > 0 for cached in later) >= 0.95 * len(later)
    assert min(counters(url, "images_encoded_total")) > 0  # both have answered
    with ChatEngine(load_model(CONFIG, device="cpu", report=None)) as engine:
        for number, answers in enumerate(told[:4]):
            turns: list[Turn] = []
            for question, (text, _) in zip(QUESTIONS, answers, strict=True):
                turns.append(Turn("user", question, () if turns else (picture(number),)))
                *_, last = engine.stream(turns, Sampling(temperature=0, max_new_tokens=60))
                assert last.text == text
                turns.append(Turn("assistant", text))


def test_who_leaves_frees_the_place_on_the_replica(url: str) -> None:
    body = {"model": MODEL, "messages": [first_message(1)], "temperature": 2, "max_tokens": 900, "stream": True}
    with httpx.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=60) as stream:
        next(stream.iter_lines())
    assert eventually(lambda: sum(counters(url, "active")) == 0)


def test_an_update_of_the_deployment_drops_nothing(url: str) -> None:
    """All replicas and the door are replaced while questions come; each has its whole answer."""
    from ray import serve

    from app.cluster.application import NAME, build

    before = {one.pid for one in replicas()}
    expected = [text for text, _ in conversation(url, 3)]
    is_over = threading.Event()

    def ask_until_it_is_over() -> list[list[str]]:
        answers = []
        while not is_over.is_set():
            answers.append([text for text, _ in conversation(url, 3)])
        return answers

    with ThreadPoolExecutor(4) as threads:
        visitors = [threads.submit(ask_until_it_is_over) for _ in range(4)]
        try:
            serve.run(build(SETTINGS), name=NAME, route_prefix="/")
            assert eventually(lambda: not before & {one.pid for one in replicas()}, timeout=180)
        finally:
            is_over.set()
        answers = [one for visitor in visitors for one in visitor.result()]
    assert len(answers) >= 4
    assert all(one == expected for one in answers)


def test_a_replica_that_is_killed_costs_nobody_a_conversation(url: str) -> None:
    """Answers that had begun end with an error or are whole; the next question works; a new replica takes over."""
    before, began = conversation(url, 3), threading.Semaphore(0)

    def stream(number: int) -> str:
        body = {"model": MODEL, "messages": [first_message(number)], "temperature": 0, "max_tokens": 60, "stream": True}
        with httpx.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=120) as response:
            lines = []
            for line in response.iter_lines():
                began.release()
                lines.append(line)
        events = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
        return events[-1]["error"]["message"] if "error" in events[-1] else "whole"

    with ThreadPoolExecutor(12) as threads:
        streams = [threads.submit(stream, number) for number in range(12)]
        assert began.acquire(timeout=60)
        (victim, *_) = replicas()
        victim.send_signal(signal.SIGKILL)
        outcomes = {one.result() for one in streams}
    assert outcomes <= {"whole", "The replica that was answering has ended; ask again, others go on."}
    assert [text for text, _ in conversation(url, 3)] == [text for text, _ in before]
    assert eventually(lambda: len(replicas()) == 2 and victim.pid not in [one.pid for one in replicas()])
    assert eventually(lambda: len(counters(url, "active")) == 2)
