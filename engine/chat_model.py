"""The one interface between the app and whatever answers: the engine, `generate`, or a scripted model in tests."""

from __future__ import annotations

import threading
from collections.abc import Generator, Sequence
from typing import Protocol

from models.conversation import Answer, Sampling, Turn
from models.errors import RequestError
from models.model_info import ModelInfo
from models.routing_trace import RoutingTrace


class Stream(Protocol):
    """One answer as it comes: an iterator that any thread may end.

    Gives answers so far, each longer than the last; the final one has a `finish_reason`. Raises MiniVLMError for what
    the user can mend; so may the first `next`.
    """

    def __iter__(self) -> Stream: ...

    def __next__(self) -> Answer: ...

    def close(self) -> None:
        """Free the model at its next step. `next` gives nothing more, also where a thread waits in it.

        Works from any thread, also before the first `next` and after the end, any number of times.
        """


class GeneratorStream:
    """A Stream over a generator, which by itself may be closed only while no thread is inside of it.

    The generator is closed by whoever calls `close`, or by the thread that is inside of it as soon as it comes out.
    """

    def __init__(self, answers: Generator[Answer]) -> None:
        self._answers = answers
        self._is_inside = threading.Lock()
        self._closed = threading.Event()

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> Answer:
        answer = None
        try:
            with self._is_inside:
                if not self._closed.is_set():
                    answer = next(self._answers)
        finally:
            if self._closed.is_set():  # perhaps while this thread was inside
                self._close_generator()
        if answer is None or self._closed.is_set():
            raise StopIteration
        return answer

    def close(self) -> None:
        """See Stream."""
        self._closed.set()
        self._close_generator()

    def _close_generator(self) -> None:
        if self._is_inside.acquire(blocking=False):  # else the thread inside finds `_closed` set when it comes out
            try:
                self._answers.close()
            finally:
                self._is_inside.release()


class ChatModel(Protocol):
    """Something that answers conversations, many at a time, from any thread.

    What a model may lack is asked of its `info` and of nothing else: boxes (of its tasks), text read in images and
    drawn pictures (`extras`), experts (`has_experts`). A model that lacks something still has the method for it, which
    then raises RequestError; a model around another one forwards all methods.
    """

    @property
    def info(self) -> ModelInfo:
        """Facts for the page: name, tasks, default settings, what the model has."""

    def stream(self, turns: Sequence[Turn], sampling: Sampling) -> Stream:
        """The answer to the last of these turns, which is the user's. Raises MiniVLMError for what can be mended."""

    def neutralise(self, text: str) -> str:
        """User text with every control token of the model broken, to be called once, where text comes in."""

    def routing(self, turns: Sequence[Turn], answer: str, sampling: Sampling) -> RoutingTrace:
        """Which experts the tokens of a conversation and its answer go to, by one more pass over them.

        `turns` and `sampling` are those that were given to `stream` for this answer. Raises RequestError for a model
        without experts, which is what a class inherits that does not define this.
        """
        del turns, answer, sampling
        raise RequestError(f"{self.info.name} has no experts whose choices could be shown.")
