"""An answer as the objects of OpenAI's API: `chat.completion`, and the chunks of a stream."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, field
from typing import Any

from app.api.openai.answer_regions import regions_of_text
from app.api.openai.from_messages import Conversation
from app.api.openai.stop_text import before_stop, certain_part
from models.conversation import Answer, FinishReason


@dataclass
class Completion:
    """One response: the same `id` and `created` in all of its chunks. `text` is what was said so far."""

    model: str
    conversation: Conversation
    stops: tuple[str, ...] = ()
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))
    text: str = ""
    finish_reason: FinishReason | None = None
    _answer: Answer = field(default_factory=lambda: Answer(text=""))
    _sent: str = ""
    _offset: int = 0  # where `text` begins in what was sent

    def update(self, answer: Answer) -> None:
        """Take an answer so far; `finish_reason` is set once the text is complete."""
        self._answer = answer
        self.text, has_stop = before_stop(answer.text, self.stops)
        self.finish_reason = "stop" if has_stop else answer.finish_reason
        if self.finish_reason is None:
            self.text = certain_part(self.text, self.stops)

    def new_text(self) -> str:
        """What `update` has added to the text, for the next chunk.

        Where a model's answer begins anew (it repeated its role name), what was sent can't be taken back: the text
        then goes on in a new line.
        """
        said = self._sent[self._offset :]
        if self.text.startswith(said):
            new = self.text[len(said) :]
        else:
            new = f"\n{self.text}"
            self._offset = len(self._sent) + 1
        self._sent += new
        return new

    def as_json(self) -> dict[str, Any]:
        """The whole response, not streamed."""
        message = {"role": "assistant", "content": self.text, **self._additions()}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": self.finish_reason}
        return {**self._head("chat.completion"), "choices": [choice], "usage": self.usage()}

    def chunk(self, delta: dict[str, Any]) -> dict[str, Any]:
        """A chunk of the stream."""
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}
        return {**self._head("chat.completion.chunk"), "choices": [choice]}

    def last_chunk(self) -> dict[str, Any]:
        """The chunk that says why the answer ended; what `message` has beside the text comes in its delta."""
        choice = {"index": 0, "delta": self._additions(), "logprobs": None, "finish_reason": self.finish_reason}
        return {**self._head("chat.completion.chunk"), "choices": [choice]}

    def usage_chunk(self) -> dict[str, Any]:
        """The chunk after the last, for who asked for it."""
        return {**self._head("chat.completion.chunk"), "choices": [], "usage": self.usage()}

    def usage(self) -> dict[str, Any] | None:
        """Tokens read and written; `cached_tokens` were found in memory. None where nobody has counted: a server
        elsewhere tells at its end, which a stop text does not wait for."""
        read, written = self._answer.num_prompt_tokens, self._answer.num_new_tokens
        if not read:
            return None
        return {
            "prompt_tokens": read,
            "completion_tokens": written,
            "total_tokens": read + written,
            "prompt_tokens_details": {
                "cached_tokens": self._answer.num_cached_tokens,
                "image_tokens": self._answer.num_image_tokens,
            },
        }

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}

    def regions(self) -> list[dict[str, Any]]:
        """The boxes of the text."""
        asked = self.conversation
        return regions_of_text(
            self.text,
            asked.picture,
            asked.picture_number,
            phrase=asked.phrase,
            spans=self._answer.spans,
            offset=self._offset,
        )

    def _additions(self) -> dict[str, Any]:
        """`regions` and `notices`, where there are any."""
        notices = [*self.conversation.notices, *self._answer.notices]
        return {name: value for name, value in (("regions", self.regions()), ("notices", notices)) if value}
