"""The one interface between the app and whatever answers: the engine, or a scripted model in tests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from models.conversation import Answer, Sampling, Turn
from models.model_info import ModelInfo


class ChatModel(Protocol):
    """Something that answers conversations, many at a time, from any thread."""

    @property
    def info(self) -> ModelInfo:
        """Facts for the page: name, tasks, default settings."""

    def stream(self, turns: Sequence[Turn], sampling: Sampling) -> Iterator[Answer]:
        """Answers so far, each longer than the last; the final one has a `finish_reason`.

        `turns` ends with a user turn. Closing the iterator early frees the model at its next step. Raises MiniVLMError
        for what the user can mend; the first `next()` may raise too.
        """

    def neutralise(self, text: str) -> str:
        """User text with every control token of the model broken, to be called once, where text comes in."""
