"""A page with its API on a port of its own, and the clients that ask it."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import openai
from gradio.routes import App
from PIL import Image

from app.api.access import Access
from app.api.gate import add_api
from app.api.openai.routes import Service
from app.api.openai.served import OneModel
from app.page.components import build_demo
from engine.chat_model import ChatModel
from engine.stats import IN_USE, Counters, EngineStats
from tests.waiting import free_port

NAME = "scripted"


@dataclass
class Api:
    """The running server, its model's name, and what only a test reaches."""

    url: str
    name: str
    models: OneModel
    service: Service
    stats: Callable[[], Counters]

    def client(self, key: str = "none", **options: Any) -> openai.OpenAI:
        """The client of most programs; it repeats nothing unless told to."""
        return openai.OpenAI(base_url=f"{self.url}v1", api_key=key, **{"max_retries": 0, **options})

    def post(self, path: str, body: Any = None, **options: Any) -> httpx.Response:
        """A plain request; a dictionary becomes JSON."""
        content = {"json": body} if isinstance(body, dict | list) else {"content": body}
        return httpx.post(f"{self.url.rstrip('/')}{path}", **content, timeout=60, **options)

    def get(self, path: str, **options: Any) -> httpx.Response:
        return httpx.get(f"{self.url.rstrip('/')}{path}", timeout=60, **options)


@contextmanager
def serve_api(
    model: ChatModel,
    *,
    name: str = NAME,
    access_for: Callable[[App], Access] = lambda _: Access(),
    stats: Callable[[], Counters] | None = None,
    **launch: Any,
) -> Iterator[Api]:
    """Page and API of a model, until the block ends."""
    demo = build_demo(model)
    app, url, _ = demo.launch(prevent_thread_lock=True, quiet=True, server_port=free_port(), **launch)
    models = OneModel(name, model)
    stats = stats or no_stats
    service = add_api(app, models, lambda: {"": stats()}, access_for(app))
    try:
        yield Api(str(url), name, models, service, stats)
    finally:
        demo.close(verbose=False)


def no_stats() -> EngineStats:
    """Of an engine that does nothing."""
    names = EngineStats.__dataclass_fields__
    assert set(IN_USE) < set(names)
    return EngineStats(**dict.fromkeys(names, 0))


def data_uri(image: Image.Image, kind: str = "png") -> str:
    """A picture as clients send it."""
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def said(text: str, *images: Image.Image, role: str = "user") -> dict[str, Any]:
    """A message with pictures."""
    parts: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": data_uri(image)}} for image in images]
    return {"role": role, "content": [*parts, {"type": "text", "text": text}]}


def request(*messages: dict[str, Any], model: str = NAME, **fields: Any) -> dict[str, Any]:
    """The body of a chat completion."""
    return {"model": model, "messages": list(messages), **fields}


def joined(chunks: Sequence[Any]) -> str:
    """The text of a stream of the openai client."""
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
