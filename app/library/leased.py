"""LibraryModel: the ChatModel under an offer's name. It exists all the time, and answers while its model is loaded."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Protocol

from engine.chat_model import ChatModel, Stream
from models.conversation import Answer, Sampling, Turn
from models.model_info import ModelInfo
from models.routing_trace import RoutingTrace


class Lender(Protocol):
    """Lends models by name."""

    def lease(self, name: str) -> ChatModel:
        """The loaded model, which stays so until `release`. Raises NotLoaded."""

    def release(self, name: str) -> None:
        """Give it back."""


class LibraryModel(ChatModel):
    """The model called `name`. What it is, is known from the first time on that it was loaded."""

    def __init__(self, lender: Lender, name: str) -> None:
        self._lender = lender
        self.name = name
        self._info: ModelInfo | None = None

    @property
    def info(self) -> ModelInfo:
        """Facts about the model, those of the last time that it was loaded. Raises NotLoaded before the first."""
        if self._info is None:
            with Lease(self._lender, self.name) as model:
                self._info = model.info
        return self._info

    def renew(self, info: ModelInfo) -> None:
        """It was loaded, perhaps not as it was before."""
        self._info = info

    def stream(self, turns: Sequence[Turn], sampling: Sampling) -> Stream:
        """The answer; the model stays loaded until the stream has ended or was closed. Raises NotLoaded."""
        lease = Lease(self._lender, self.name)
        try:
            return LeasedStream(lease.model.stream(turns, sampling), lease)
        except BaseException:
            lease.end()
            raise

    def neutralise(self, text: str) -> str:
        """User text with every control token of the model broken. Raises NotLoaded."""
        with Lease(self._lender, self.name) as model:
            return model.neutralise(text)

    def routing(self, turns: Sequence[Turn], answer: str, sampling: Sampling) -> RoutingTrace:
        """See ChatModel. Raises NotLoaded."""
        with Lease(self._lender, self.name) as model:
            return model.routing(turns, answer, sampling)


class Lease:
    """The right to use a loaded model, until `end` or the end of a `with` block."""

    def __init__(self, lender: Lender, name: str) -> None:
        self._model: ChatModel | None = lender.lease(name)
        self._lender, self._name = lender, name
        self._lock = threading.Lock()

    @property
    def model(self) -> ChatModel:
        """The model itself; not to be kept."""
        assert self._model is not None, "the lease has ended"
        return self._model

    def end(self) -> None:
        """Give the model back. A second call does nothing."""
        with self._lock:
            model, self._model = self._model, None
        if model is not None:
            del model
            self._lender.release(self._name)

    def __enter__(self) -> ChatModel:
        return self.model

    def __exit__(self, *_: object) -> None:
        self.end()


class LeasedStream(Stream):
    """A stream that holds a lease, and after its end neither the model nor anything of it."""

    def __init__(self, answers: Stream, lease: Lease) -> None:
        self._answers: Stream | None = answers
        self._lease = lease

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> Answer:
        answers = self._answers
        if answers is None:
            raise StopIteration
        try:
            answer = next(answers)
        except BaseException:
            self.close()
            raise
        if answer.finish_reason is not None:
            self.close()
        return answer

    def close(self) -> None:
        """See Stream."""
        answers, self._answers = self._answers, None
        if answers is not None:
            answers.close()
        self._lease.end()
