"""A real cluster on this machine: two replicas of the bundled model, and clients who do not notice."""

from __future__ import annotations

import base64
import io
import json
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import psutil
import pytest

from benchmarks.random_models import picture
from tests.paths import ROOT
from tests.waiting import eventually, free_port

pytestmark = pytest.mark.usefixtures("with_ray")
CONFIG = ROOT / "eval_configs" / "tiny_minigpt_v2.yaml"
MODEL = CONFIG.stem
QUESTIONS = ("[caption] describe this image", "[detection] circle", "[vqa] how many objects are there?")


@pytest.fixture(scope="module")
def url(with_ray: None) -> Iterator[str]:
    from app.cluster.running import Cluster

    settings = {"configs": [CONFIG], "replicas": 2, "cpus": 0.1}
    with Cluster(settings, port=free_port()) as cluster:
        assert eventually(lambda: httpx.get(f"{cluster.url}/health").status_code == 200)
        yield cluster.url


def data_uri(number: int) -> str:
    buffer = io.BytesIO()
    picture(number).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def first_message(number: int, text: str = QUESTIONS[0]) -> dict[str, Any]:
    image = {"type": "image_url", "image_url": {"url": data_uri(number)}}
    return {"role": "user", "content": [image, {"type": "text", "text": text}]}


def conversation(url: str, number: int) -> list[tuple[str, int]]:
    """Three answers, each with how many tokens of its prompt were found in memory."""
    messages, answers = [first_message(number)], []
    with httpx.Client(base_url=url, timeout=120) as client:
        for following in (*QUESTIONS[1:], None):
            body = {"model": MODEL, "messages": messages, "temperature": 0, "max_tokens": 60}
            answer = client.post("/v1/chat/completions", json=body).raise_for_status().json()
            text = answer["choices"][0]["message"]["content"]
            answers.append((text, answer["usage"]["prompt_tokens_details"]["cached_tokens"]))
            messages += [{"role": "assistant", "content": text}, {"role": "user", "content": following}]
    return answers


def counters(url: str, name: str) -> list[float]:
    """A counter of `/metrics`, of each replica."""
    lines = httpx.get(f"{url}/metrics", timeout=60).raise_for_status().text.splitlines()
    return [float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"minivlm_{name}{{")]


def replicas() -> list[psutil.Process]:
    found = psutil.process_iter(["cmdline"])
    return [one for one in found if f"ServeReplica:minivlm:{MODEL}" in " ".join(one.info["cmdline"] or ())]


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


def test_errors_are_the_apis(url: str) -> None:
    def ask(**changed: Any) -> httpx.Response:
        body = {"model": MODEL, "messages": [first_message(2)], "max_tokens": 5}
        return httpx.post(f"{url}/v1/chat/completions", json=body | changed, timeout=60)

    assert ask(model="other").json()["error"]["code"] == "model_not_found"
    assert ask(n=3).status_code == 400
    long = ask(messages=[first_message(2, "what is it " * 5000)])
    assert long.json()["error"]["code"] == "context_length_exceeded"
    assert httpx.get(url).status_code == 404


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
