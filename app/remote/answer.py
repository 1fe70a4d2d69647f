"""Chunks of a stream, or one whole response -> the answer so far."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field, replace
from typing import Any

from app.chat.encoding import well_formed
from app.remote.boxes.box_format import BoxFormat, Size
from app.remote.server_errors import event_error, one_line
from models.conversation import Answer, FinishReason
from models.errors import ServerFailed
from models.grounding import Box, BoxSpan

CHARACTERS_PER_TOKEN = 100  # far more than any text has: only a server that ignores the limit goes on so long
MAX_NOTICES = 20
MAX_LABEL = 500  # characters


@dataclass(frozen=True, kw_only=True)
class Heard:
    """What has come so far. `is_done`: the server said that nothing more comes."""

    text: str = ""
    finish_reason: FinishReason | None = None
    is_done: bool = False
    usage: dict[str, int] = field(default_factory=dict)
    regions: tuple[BoxSpan, ...] | None = None
    notices: tuple[str, ...] = ()
    num_thoughts: int = 0  # characters

    def answer(self, boxes: BoxFormat, size: Size, *, seconds: float, is_last: bool) -> Answer:
        """As the program has answers; a finish reason only where it `is_last`."""
        is_whole = is_last and self.finish_reason in (None, "stop")
        spans = self.regions if self.regions is not None else boxes.read(self.text, size, is_whole=is_whole)
        thoughts = (f"The model thought first ({self.num_thoughts:,} characters, not shown).",)
        return Answer(
            text=self.text if not is_last else self.text.rstrip(),
            finish_reason=(self.finish_reason or "stop") if is_last else None,
            num_prompt_tokens=self.usage.get("prompt_tokens", 0),
            num_new_tokens=self.usage.get("completion_tokens", 0),
            num_cached_tokens=self.usage.get("cached_tokens", 0),
            num_image_tokens=self.usage.get("image_tokens", 0),
            seconds=seconds if is_last else 0.0,
            notices=(*(thoughts if self.num_thoughts else ()), *self.notices),
            spans=spans,
        )


class Reading:
    """Takes what a server sends and keeps what was `heard`. `where` is its address, for errors."""

    def __init__(self, *, where: str, key: str | None, max_new_tokens: int) -> None:
        self.heard = Heard()
        self._where = where
        self._key = key
        self._max_characters = CHARACTERS_PER_TOKEN * max_new_tokens

    def take_event(self, data: str) -> bool:
        """The data of an event; whether it brought anything. Raises MiniVLMError for an error, and for nonsense."""
        if data.strip() == "[DONE]":
            self.heard = replace(self.heard, is_done=True)
            return False
        return self.take(self._object(data), "delta")

    def take_whole(self, body: str) -> None:
        """A response that is not streamed."""
        self.take(self._object(body), "message")
        self.heard = replace(self.heard, is_done=True)

    def take(self, value: dict[str, Any], part: str) -> bool:
        """A chunk, whose text is in `delta`, or a whole completion, whose text is in `message`."""
        if value.get("error") or value.get("object") == "error":
            raise event_error(value, where=self._where, key=self._key)
        before = self.heard
        if isinstance(value.get("usage"), dict):
            self.heard = replace(self.heard, usage=_usage(value["usage"]))
        choices = value.get("choices")
        if not isinstance(choices, list):
            raise self._nonsense(str(value))
        choice = choices[0] if choices else {}
        said = choice.get(part) if isinstance(choice, dict) else None
        if isinstance(said, dict):
            self._say(said)
        if isinstance(choice, dict) and choice.get("finish_reason"):
            self._finish(str(choice["finish_reason"]))
        return self.heard is not before

    @property
    def is_too_long(self) -> bool:
        """Whether more came than was asked for."""
        return len(self.heard.text) > self._max_characters

    def cut(self) -> None:
        """End here, and say so."""
        notice = "The server went on far beyond the limit of new tokens; the answer is cut here."
        text = self.heard.text[: self._max_characters]
        self.heard = replace(
            self.heard, text=text, finish_reason="length", is_done=True, notices=(*self.heard.notices, notice)
        )

    def _say(self, said: dict[str, Any]) -> None:
        heard = self.heard
        thought = said.get("reasoning_content") or said.get("reasoning")
        if isinstance(thought, str):
            heard = replace(heard, num_thoughts=heard.num_thoughts + len(thought))
        if text := _text(said.get("content")) or _text(said.get("refusal")):
            heard = replace(heard, text=heard.text + well_formed(text))
        if isinstance(said.get("notices"), list):
            lines = [one_line(line) for line in said["notices"][:MAX_NOTICES] if isinstance(line, str)]
            heard = replace(heard, notices=tuple(lines))
        if isinstance(said.get("regions"), list):
            heard = replace(heard, regions=spans_of(said["regions"], len(heard.text)))
        self.heard = heard

    def _finish(self, reason: str) -> None:
        known: FinishReason = "length" if reason in ("length", "max_tokens") else "stop"
        notices = self.heard.notices
        if reason not in ("stop", "length", "max_tokens", "eos", "eos_token", "stop_sequence", "end_turn"):
            notices = (*notices, f"The server ended the answer: {one_line(reason)}.")
        self.heard = replace(self.heard, finish_reason=known, notices=notices)

    def _object(self, data: str) -> dict[str, Any]:
        try:
            value = json.loads(data)
        except (ValueError, RecursionError):
            raise self._nonsense(data) from None
        if not isinstance(value, dict):
            raise self._nonsense(data)
        return value

    def _nonsense(self, data: str) -> ServerFailed:
        return ServerFailed(f"{self._where} sent what is no chat completion: {one_line(data)[:100]!r}.")


def _text(content: Any) -> str:
    """A content, which is a text, or a list of parts, or nothing."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    texts = [part.get("text") for part in parts if isinstance(part, dict)]
    return "".join(text for text in texts if isinstance(text, str))


def _usage(usage: dict[str, Any]) -> dict[str, int]:
    details = usage.get("prompt_tokens_details")
    values = {**(details if isinstance(details, dict) else {}), **usage}
    names = ("prompt_tokens", "completion_tokens", "cached_tokens", "image_tokens")
    found = {name: values.get(name) for name in names}
    return {
        name: value
        for name, value in found.items()
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53
    }


def spans_of(regions: list[Any], length: int) -> tuple[BoxSpan, ...]:
    """`message.regions` of this program (docs/api.md), about a text of this length; what is not as described, goes."""
    found: dict[tuple[int, int], BoxSpan] = {}
    for region in regions:
        try:
            begin, end = (int(place) for place in region["span"])
            x0, y0, x1, y1 = (float(edge) for edge in region["bbox"])
            label = " ".join(str(region.get("label") or "")[:MAX_LABEL].split())
        except (TypeError, ValueError, KeyError, AttributeError, OverflowError):
            continue
        if not 0 <= begin < end <= length or not all(map(math.isfinite, (x0, y0, x1, y1))):
            continue
        known = found.get((begin, end), BoxSpan(begin, end, label))
        found[begin, end] = replace(known, boxes=(*known.boxes, Box.from_corners(x0, y0, x1, y1)))
    return tuple(found[ends] for ends in sorted(found))
