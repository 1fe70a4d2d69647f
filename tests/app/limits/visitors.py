"""Servers with limits, and those who come to them, for the tests of the layer."""

from __future__ import annotations

import argparse
import json
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import httpx

from app.limits.policy import Limits
from tests.app.page.sidebar import page_values

ServeLimited = Callable[..., str]  # puts a scripted page behind limits and gives its address
FILE = {"_type": "gradio.FileData"}
SETTINGS = page_values(temperature=0, top_p=1, max_new_tokens=900, repetition_penalty=1, seed="0")


def arguments(**changed: Any) -> argparse.Namespace:
    """The command line's, as far as the server reads it."""
    usual: dict[str, Any] = {
        "host": "127.0.0.1",
        "share": False,
        "auth": None,
        "allow_host": [],
        "trusted_proxy": [],
        "root_path": None,
    }
    return argparse.Namespace(**usual | changed)


class Visitor:
    """A browser without a window: it loads the page, keeps its cookies, and asks as the page's script does."""

    opened: ClassVar[list[httpx.Client]] = []  # closed with the servers

    def __init__(self, url: str, *, address: str = "127.0.0.1", loads_page: bool = True) -> None:
        transport = httpx.HTTPTransport(local_address=address)
        self.client = httpx.Client(base_url=url, timeout=20, transport=transport)
        self.opened.append(self.client)
        self.session = secrets.token_hex(6)
        self.key = ""
        if loads_page:
            assert self.client.get("/").status_code == 200

    def press(self, index: int, data: list[Any], **more: Any) -> httpx.Response:
        """A quick listener, by its index."""
        body = {"data": data, "session_hash": self.session, "fn_index": index, **more}
        return self.client.post("/gradio_api/run/predict", json=body)

    def upload(self, content: bytes, name: str = "a.png") -> httpx.Response:
        return self.client.post("/gradio_api/upload", files={"files": (name, content)})

    def join(self, text: str, files: list[str] | None = None) -> httpx.Response:
        """Send a question; its answer comes with `updates`."""
        value = {"text": text, "files": [{"path": path, "meta": FILE} for path in files or []]}
        data = [None, self.key, value, None, *SETTINGS]
        body = {"data": data, "session_hash": self.session, "fn_index": 0}
        return self.client.post("/gradio_api/queue/join", json=body)

    def updates(self) -> list[dict[str, Any]]:
        """All messages up to the end of the answer."""
        parameters = {"session_hash": self.session}
        with self.client.stream("GET", "/gradio_api/queue/data", params=parameters) as stream:
            assert stream.status_code == 200, stream.read()
            return [json.loads(line[5:]) for line in stream.iter_lines() if line.startswith("data:")]

    def ask(self, text: str, files: list[str] | None = None) -> str:
        """Send a question and read its answer to the end; the messages as text."""
        joined = self.join(text, files)
        assert joined.status_code == 200, joined.text
        messages = self.updates()
        assert messages[-1]["msg"] == "close_stream"
        return json.dumps(messages)


def listener_index(url: str, name: str) -> int:
    """The index of the page's listener with this name."""
    config = httpx.get(f"{url}config").json()
    return next(one["id"] for one in config["dependencies"] if one["api_name"] == name)


def tight(**changed: Any) -> Limits:
    """Limits for a test: the usual ones but for these."""
    return Limits(**changed)


PICTURE = Path("app/page/assets/examples/bus.png")


@contextmanager
def a_bystander(url: str) -> Iterator[None]:
    """Somebody at another address who began before the attack, and goes on after it."""
    bystander = Visitor(url, address="127.0.0.2")
    with bystander.client.stream("GET", f"/gradio_api/heartbeat/{bystander.session}"):
        path = bystander.upload(PICTURE.read_bytes()).json()[0]
        assert "A red circle." in bystander.ask("first question", [path])
        yield
        shown = bystander.ask("second question")
        assert "A red circle." in shown
        assert "Question 2" in shown  # so that the first is there still; only what is new is sent
