"""What replicas on this machine really take, by the CPU time of their processes, so that what else runs does not count.

A turn is asked over HTTP, as clients do. Answers are greedy; how long they became is recorded with them, so that the
simulation is given the same work. How long a turn took is read on the same clock: what its replica worked meanwhile.
"""

from __future__ import annotations

import base64
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import httpx
import psutil

from models.command_line import CONFIG_DIR, ROOT
from training.scenes import draw_scene

MODEL = "tiny_minigpt_v2"
QUESTIONS = ("[caption] describe this image", "[detection] circle", "[vqa] how many objects are there?")
LONG, SHORT = 60, 2  # times that this is in a prompt; the difference is what its tokens take
PHRASE = "is it a red circle ? "
START_SECONDS = 300.0

Rows = list[list[list[int]]]  # conversations of turns: tokens of the prompt, of these found in memory, of the answer
Clocks = list[float]  # seconds that each replica has worked since it was started


@dataclass
class Talked:
    """A conversation. `clocks` of each turn: when it was asked, at its first word, and at its end."""

    rows: list[list[int]] = field(default_factory=list)
    clocks: list[tuple[Clocks, Clocks, Clocks]] = field(default_factory=list)
    messages: list[dict[str, Any]] = field(default_factory=list)

    def latencies(self, place: int) -> list[list[float]]:
        """Of each turn: seconds to its first word and to its end, of the replica that answered."""
        return [
            [round(first[place] - asked[place], 4), round(ended[place] - asked[place], 4)]
            for asked, first, ended in self.clocks
        ]


@dataclass
class MeasuredRun:
    """Some conversations. CPU seconds are of each replica, of the door, and of the proxy in front of the door."""

    rows: Rows
    at_once: int
    wall: float
    replicas: list[float]
    door: float
    proxy: float
    places: list[int] = field(default_factory=list)  # the replica of each conversation
    latencies: list[list[list[float]]] = field(default_factory=list)

    def values(self) -> dict[str, Any]:
        """For a report."""
        return {
            "rows": self.rows,
            "at_once": self.at_once,
            "places": self.places,
            "latencies": self.latencies,
            "replicas": [round(one, 3) for one in self.replicas],
            **{name: round(getattr(self, name), 3) for name in ("wall", "door", "proxy")},
        }


class Served:
    """A cluster of the bundled MiniGPT-v2 that runs in a process of its own, one thread for each replica."""

    def __init__(self, server: psutil.Process, url: str) -> None:
        self._server = server
        self._client = httpx.Client(base_url=url, timeout=300, limits=httpx.Limits(max_connections=None))
        self._names = iter(range(1, 10**9))
        self._replicas: list[psutil.Process] = []

    def run(self, count: int, turns: int, length: int, *, at_once: int) -> MeasuredRun:
        """So many conversations about pictures that nobody has seen yet, with answers of at most `length` tokens."""
        numbers = [next(self._names) for _ in range(count)]
        told: list[Talked] = []

        def talk() -> Rows:
            with ThreadPoolExecutor(at_once) as threads:
                told.extend(threads.map(lambda number: self._conversation(number, turns, length), numbers))
            return [one.rows for one in told]

        measured = self._timed(talk, at_once)
        measured.places = [self._place_of(one.messages) for one in told]
        measured.latencies = [one.latencies(place) for one, place in zip(told, measured.places, strict=True)]
        return measured

    def read(self, length: int, count: int) -> MeasuredRun:
        """So many questions about new pictures, of PHRASE `length` times each, with answers of one token."""
        numbers = [next(self._names) for _ in range(count)]
        return self._timed(lambda: [self._talk([_about(one, length * PHRASE)], [], 1).rows for one in numbers], 1)

    def _timed(self, do: Callable[[], Rows], at_once: int) -> MeasuredRun:
        self._replicas = self._processes(f"ServeReplica:minivlm:{MODEL}")
        doors, proxies = self._processes("ServeReplica:minivlm:door"), self._processes("ProxyActor")
        before = self._clocks(), _cpu(doors), _cpu(proxies)
        began = time.monotonic()
        rows = do()
        wall = time.monotonic() - began
        took = [now - then for now, then in zip(self._clocks(), before[0], strict=True)]
        return MeasuredRun(rows, at_once, wall, took, _cpu(doors) - before[1], _cpu(proxies) - before[2])

    def _clocks(self) -> Clocks:
        """In nanoseconds' steps, which `cpu_times` does not have: Linux' clock of another process, by its number."""
        return [time.clock_gettime((~one.pid << 3) | 2) for one in self._replicas]

    def _place_of(self, messages: list[dict[str, Any]]) -> int:
        """The replica that has a conversation, which is the one that works when its question is asked again."""
        before = self._clocks()
        self._talk(messages, [], 8)
        took = [now - then for now, then in zip(self._clocks(), before, strict=True)]
        return took.index(max(took))

    def _conversation(self, number: int, turns: int, length: int) -> Talked:
        return self._talk([_about(number, QUESTIONS[0])], QUESTIONS[1:turns], length)

    def _talk(self, messages: list[dict[str, Any]], following: Sequence[str], length: int) -> Talked:
        talked = Talked(messages=list(messages))
        for question in (*following, None):
            text, row, clocks = self._turn(talked.messages, length)
            talked.rows.append(row)
            talked.clocks.append(clocks)
            if question is not None:
                talked.messages += [{"role": "assistant", "content": text}, _text(question)]
        return talked

    def _turn(
        self, messages: list[dict[str, Any]], length: int
    ) -> tuple[str, list[int], tuple[Clocks, Clocks, Clocks]]:
        body = {"model": MODEL, "messages": messages, "temperature": 0, "max_tokens": length, "stream": True}
        body["stream_options"] = {"include_usage": True}
        text = ""
        usage: dict[str, Any] = {}
        asked, first = self._clocks(), None
        with self._client.stream("POST", "/v1/chat/completions", json=body) as response:
            response.raise_for_status()
            for line in response.iter_lines():
                if line.startswith("data: {"):
                    event = json.loads(line[6:])
                    text += "".join(one["delta"].get("content") or "" for one in event["choices"])
                    first = first or (self._clocks() if text else None)
                    usage = event.get("usage") or usage
        found = usage["prompt_tokens_details"]["cached_tokens"]
        ended = self._clocks()
        return text, [usage["prompt_tokens"], found, usage["completion_tokens"]], (asked, first or ended, ended)

    def count(self) -> int:
        """Replicas that can be asked."""
        text = self._client.get("/metrics").raise_for_status().text
        return sum(line.startswith("minivlm_images_encoded_total{") for line in text.splitlines())

    def _processes(self, word: str) -> list[psutil.Process]:
        found = []
        for process in self._server.children(recursive=True):
            with suppress(psutil.Error):
                if word in " ".join(process.cmdline()):
                    found.append(process)
        return found


def _about(number: int, text: str) -> dict[str, Any]:
    """A question about a picture."""
    buffer = io.BytesIO()
    draw_scene(number).save(buffer, "PNG")
    url = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    return {
        "role": "user",
        "content": [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": text}],
    }


def _text(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def _cpu(processes: Sequence[psutil.Process]) -> float:
    times = [process.cpu_times() for process in processes]
    return sum(one.user + one.system for one in times)


@contextmanager
def served(replicas: int) -> Iterator[Served]:
    """A cluster on this machine for the block."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "app.cluster", "--cfg-path", str(CONFIG_DIR / f"{MODEL}.yaml"), "--device", "cpu"]
    command += ["--replicas", str(replicas), "--cpus", "0.1", "--port", str(port)]
    settings = os.environ | {"OMP_NUM_THREADS": "1"}
    server = subprocess.Popen(command, cwd=ROOT, env=settings, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url, end = f"http://127.0.0.1:{port}", time.monotonic() + START_SECONDS
    try:
        while not _is_there(url):
            if server.poll() is not None or time.monotonic() > end:
                raise SystemExit("the cluster did not start; try: python -m app.cluster --cfg-path …")
            time.sleep(0.5)
        cluster = Served(psutil.Process(server.pid), url)
        while cluster.count() < replicas and time.monotonic() < end:  # the door is open as soon as one is there
            time.sleep(0.5)
        yield cluster
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(180)


def _is_there(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False
