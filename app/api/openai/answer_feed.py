"""One answer for one HTTP request, read by a thread of its own and awaited here."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from app.chat.live_answer import LiveAnswer
from engine.chat_model import ChatModel
from models.conversation import Answer, Sampling, Turn


class AnswerEnded(Exception):
    """The answer was closed before it was finished: its client left."""


class AnswerFeed:
    """The newest answer whenever there is one. `close` frees the model at its next step; `on_close` is called once."""

    def __init__(
        self, model: ChatModel, turns: tuple[Turn, ...], sampling: Sampling, *, on_close: Callable[[], None]
    ) -> None:
        loop = asyncio.get_running_loop()
        self._news = asyncio.Event()
        self._on_close: Callable[[], None] | None = on_close

        def wake() -> None:
            with contextlib.suppress(RuntimeError):  # the server was shut down
                loop.call_soon_threadsafe(self._news.set)

        self._live = LiveAnswer(model, turns, sampling, on_change=wake).start()

    async def next(self, timeout: float | None = None) -> Answer | None:
        """The newest answer, once it has changed, or None after `timeout` seconds.

        Raises what the model raised; AnswerEnded after `close`.
        """
        try:
            await asyncio.wait_for(self._news.wait(), timeout)
        except TimeoutError:
            return None
        self._news.clear()
        answer = self._live.latest
        if answer.finish_reason is None and not self._live.is_running:
            raise self._live.error or AnswerEnded
        return answer

    def look_again(self) -> None:
        """Let the next `next` give the newest answer at once, whether or not it was given before."""
        self._news.set()

    def close(self) -> None:
        """End the answer, from the thread of the event loop. A second call does nothing."""
        self._live.stop()
        self._news.set()
        done, self._on_close = self._on_close, None
        if done is not None:
            done()
