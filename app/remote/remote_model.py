"""A ChatModel that another server answers for: many chats at a time, each on a connection of its own."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from app.remote.answer import Reading
from app.remote.completion_request import request_body, session_id, uri_as_sent
from app.remote.served_elsewhere import ServedElsewhere, headers
from app.remote.stream import RemoteStream, ask
from engine.chat_model import ChatModel
from engine.per_image import PerImage
from engine.stats import counter
from models.conversation import Sampling, Turn
from models.model_info import ModelInfo
from models.sampling_settings import check

CONNECT_SECONDS = 10.0
CLOSE_SECONDS = 5.0

# What chat templates take for control tokens, whoever wrote it.
_CONTROL = re.compile(r"</?s>|<image>|<\|[^<>|\s]{1,40}\|>")


@dataclass(frozen=True, kw_only=True)
class RemoteStats:
    """For `/metrics`: what is known here of a model that runs elsewhere."""

    active: int = field(metadata=counter("in use", "Questions that the other server is answering."))
    answered: int = field(metadata=counter("total", "Answers that came to their end since the start."))
    failed: int = field(metadata=counter("total", "Answers that were ended early or went wrong since the start."))


class RemoteModel(ChatModel):
    """Asks the model of another server. Use it in a with block, which has the thread of the connections."""

    def __init__(self, served: ServedElsewhere) -> None:
        self._served = served
        self._uri_of = PerImage(uri_as_sent)
        self._loop = asyncio.new_event_loop()
        self._client: httpx.AsyncClient | None = None
        self._thread = threading.Thread(target=self._loop.run_forever, name="other server", daemon=True)
        self._lock = threading.Lock()
        self._active = self._answered = self._failed = 0

    def __enter__(self) -> RemoteModel:
        self._thread.start()
        self._client = asyncio.run_coroutine_threadsafe(self._connect(), self._loop).result()
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._disconnect(), self._loop).result(CLOSE_SECONDS)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CLOSE_SECONDS)
        self._loop.close()

    @property
    def info(self) -> ModelInfo:
        """What is known of the model."""
        return self._served.info

    def neutralise(self, text: str) -> str:
        """User text with what chat templates take for control tokens broken; this program does its own there."""
        if self._served.is_ours:
            return text
        while (broken := _CONTROL.sub(lambda match: match[0][0] + " " + match[0][1:], text)) != text:
            text = broken
        return text

    def stream(self, turns: Sequence[Turn], sampling: Sampling) -> RemoteStream:
        """The answer, which is asked for at once."""
        if self._client is None:
            raise RuntimeError("The model is not connected; use it in a with block.")
        turns, sampling = tuple(turns), check(sampling)
        config = self._served.config
        reading = Reading(where=self._served.where, key=config.server_key, max_new_tokens=sampling.max_new_tokens)
        with self._lock:
            self._active += 1
        stream = RemoteStream(self._served, turns, reading, on_end=self._ended)

        def make_body() -> tuple[dict[str, Any], dict[str, str]]:
            body = request_body(self._served, turns, sampling, self._uri_of)
            return body, {"x-session-id": session_id(turns, self._uri_of)}

        client = self._client
        return stream.start(self._submit, lambda: ask(client, self._served, make_body, reading, stream.hear))

    def stats(self) -> RemoteStats:
        """Counters for `/metrics`."""
        with self._lock:
            return RemoteStats(active=self._active, answered=self._answered, failed=self._failed)

    def _submit(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def _ended(self, is_whole: bool) -> None:
        with self._lock:
            self._active -= 1
            self._answered += is_whole
            self._failed += not is_whole

    async def _connect(self) -> httpx.AsyncClient:
        timeout = httpx.Timeout(None, connect=CONNECT_SECONDS)  # the answer's own clock is in `ask`
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=32)
        return httpx.AsyncClient(timeout=timeout, limits=limits, headers=headers(self._served.config))

    async def _disconnect(self) -> None:
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._client is not None:
            await self._client.aclose()
