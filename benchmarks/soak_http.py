"""`python -m benchmarks.soak --http`: visitors of the page, each visit a new session, and the memory of the server.

A visit is what a browser does: it opens the page, says that it is there, uploads a picture, asks three questions and
goes. The server is `demo.py` as anybody starts it, in a process of its own on this machine.
"""

from __future__ import annotations

import io
import re
import secrets
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import httpx
from PIL import Image

from benchmarks.random_models import picture
from models.command_line import ROOT

QUESTIONS = ("[caption] describe this image", "[vqa] how many objects are there?", "[vqa] what is it?")
LENGTH = 40  # tokens of an answer
SAMPLE_SECONDS = 5.0
SETTLED_SECONDS = 60.0  # from the first visit on; what is taken then should be all that is ever taken
ALLOWED_GROWTH = 0.05
_ANSWER = re.compile(r'class=\\"mv-raw\\"[^>]*>(.*?)</pre>')
_GAUGES = ("active", "waiting", "in_loop", "known_to_loop", "pages_in_use", "images_pinned")


@contextmanager
def served(cfg_path: Path, *options: str, log: Path | None = None) -> Iterator[tuple[str, int]]:
    """The address of a server that is started for the block, and its process; `log` gets what it says."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, str(ROOT / "demo.py"), "--cfg-path", str(cfg_path), "--port", str(port), *options]
    with log.open("wb") if log else nullcontext() as errors:
        server = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=errors)
    url = f"http://127.0.0.1:{port}"
    try:
        while not _is_there(url):
            if server.poll() is not None:
                raise SystemExit(f"the server did not start (exit status {server.returncode})")
            time.sleep(0.5)
        yield url, server.pid
    finally:
        server.terminate()
        server.wait(60)


def _is_there(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


def resident_mib(pid: int) -> float:
    """The memory that a process has, in MiB; without the system's caches."""
    text = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    return int(re.findall(r"VmRSS:\s+(\d+)", text)[0]) / 1024


@dataclass(frozen=True)
class PageConfig:
    """What a client must know of the page: the numbers of its listeners by name, and its settings, as they come.

    The settings are temperature, top-p, length, repetition, seed, and what models with extras have beside them.
    """

    listeners: dict[str, int]
    settings: tuple[Any, ...]

    @classmethod
    def read(cls, url: str) -> PageConfig:
        """As the server says."""
        config = httpx.get(f"{url}/config", timeout=60).json()
        values = {one["id"]: one["props"].get("value") for one in config["components"]}
        listeners = {one["api_name"]: one for one in config["dependencies"] if one["api_name"]}
        settings = tuple(values[number] for number in listeners["ask"]["inputs"][4:])
        return cls({name: one["id"] for name, one in listeners.items()}, settings)

    def settings_for(self, length: int) -> tuple[Any, ...]:
        """Of a greedy answer, which is the same each time, of so many tokens."""
        return (0, 1, length, 1, "0", *self.settings[5:])


@dataclass
class Visitor:
    """One browser, with its cookies."""

    url: str
    page: PageConfig
    image: bytes
    address: str = "127.0.0.1"

    def __post_init__(self) -> None:
        transport = httpx.HTTPTransport(local_address=self.address)
        self.client = httpx.Client(base_url=self.url, timeout=120, transport=transport)

    def visit(self) -> list[str]:
        """One visit in a new session; the answers."""
        session = secrets.token_hex(6)
        self.client.get("/").raise_for_status()
        with self.client.stream("GET", f"/gradio_api/heartbeat/{session}"):
            uploaded = self.client.post("/gradio_api/upload", files={"files": ("a.png", self.image)})
            uploaded.raise_for_status()
            file = {"path": uploaded.json()[0], "meta": {"_type": "gradio.FileData"}}
            return [
                self._ask(session, {"text": question, "files": [file] if number == 0 else []})
                for number, question in enumerate(QUESTIONS)
            ]

    def _ask(self, session: str, message: dict[str, Any]) -> str:
        data = [None, "", message, None, *self.page.settings_for(LENGTH)]
        body = {"data": data, "session_hash": session, "fn_index": self.page.listeners["ask"]}
        self.client.post("/gradio_api/queue/join", json=body).raise_for_status()
        with self.client.stream("GET", "/gradio_api/queue/data", params={"session_hash": session}) as stream:
            stream.raise_for_status()
            messages = [line for line in stream.iter_lines() if line.startswith("data:")]
        found = _ANSWER.findall("".join(messages))
        if not found:
            raise RuntimeError(f"no answer came: {messages[-2:]!r:.300}")
        return found[-1]


@dataclass
class HttpSoak:
    """Visitors that come again and again; `memory` has seconds, visits so far and MiB, every few seconds."""

    url: str
    pid: int
    seconds: float
    events: Counter[str] = field(default_factory=Counter)
    errors: list[str] = field(default_factory=list)
    memory: list[tuple[float, int, float]] = field(default_factory=list)

    def run(self, visitors: int) -> None:
        """Let them come until the time is over."""
        page = PageConfig.read(self.url)
        begun = time.monotonic()
        threads = [
            threading.Thread(
                target=self._come, args=(Visitor(self.url, page, as_png(picture(number))), begun + self.seconds)
            )
            for number in range(visitors)
        ]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            self.memory.append((round(time.monotonic() - begun, 1), self.events["visits"], resident_mib(self.pid)))
            time.sleep(SAMPLE_SECONDS)

    def _come(self, visitor: Visitor, end: float) -> None:
        expected: list[str] | None = None
        while time.monotonic() < end:
            try:
                answers = visitor.visit()
            except (httpx.HTTPError, RuntimeError, OSError) as error:
                self.events["failed"] += 1
                self.errors.append(f"{type(error).__name__}: {error}"[:200])
                time.sleep(1)
                continue
            self.events["visits"] += 1
            expected = expected or answers
            self.events["differing"] += answers != expected

    @property
    def growth(self) -> float:
        """By how much of it the memory of a later minute is more than that of the second, by their medians: a single
        look may find many pictures on their way."""
        minutes: dict[int, list[float]] = {}
        for seconds, _, mib in self.memory:
            minutes.setdefault(int(seconds // SETTLED_SECONDS), []).append(mib)
        settled = [median(found) for minute, found in sorted(minutes.items()) if minute > 0]
        return max(settled) / settled[0] - 1 if settled else 0.0


def left_behind(url: str) -> dict[str, float]:
    """What `/metrics` counts as in use a minute after nobody is there any more."""
    left: dict[str, float] = {}
    for _ in range(60):
        text = httpx.get(f"{url}/metrics", timeout=60).raise_for_status().text
        lines = [line.rpartition(" ") for line in text.splitlines() if line[:1] != "#"]  # a label may hold spaces
        left = {
            name: float(value)
            for name, _, value in lines
            if name.partition("{")[0].removeprefix("minivlm_") in _GAUGES and float(value)
        }
        if not left:
            break
        time.sleep(1)
    return left


def as_png(image: Image.Image) -> bytes:
    """An image as a file."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
