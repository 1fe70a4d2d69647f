"""What visitors think of answers, as lines of JSON in a file of the operator's."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from app.chat.exchange import Exchange, now
from models.errors import ConfigError, RequestError
from models.sampling_settings import settings_of

MOST_CHARACTERS = 50_000  # of the questions in a line, the newest, and of each answer: a chat may hold millions
MOST_BYTES = 2**30  # of the file

# A terminal that shows the file would obey some of these; all others JSON writes as escapes by itself.
_CONTROLS = {code: f"\\u{code:04x}" for code in (*range(0x7F, 0xA0), 0x2028, 0x2029)}

Rating = Literal["up", "down", ""]  # empty: taken back


class FeedbackFile:
    """Appends to a file, one whole line at a time, from any thread. Raises ConfigError if it can't be written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._append("")  # a file that can't be written is told at the start

    def rate(self, exchanges: Sequence[Exchange], index: int, rating: Rating) -> None:
        """Somebody pressed a thumb under the answer of exchange `index`, or took that back."""
        exchange = exchanges[index]
        self._write("rating", rating, exchanges, index, [exchange])

    def vote(self, exchanges: Sequence[Exchange], index: int, vote: str) -> None:
        """Somebody said which of the two answers of exchange `index` is better ("left", "right", "tie", "both bad"), or
        took that back. Where a thumb has one model, answer and settings, a vote has two of each, left and right."""
        self._write("vote", vote, exchanges, index, exchanges[index].answers)

    def _write(
        self, kind: str, said: str, exchanges: Sequence[Exchange], index: int, answers: Sequence[Exchange]
    ) -> None:
        def one_or_two(values: list[Any]) -> Any:
            return values if kind == "vote" else values[0]

        record: dict[str, Any] = {
            "kind": kind,
            kind: said,
            "time": now(),
            "model": one_or_two([one.model for one in answers]),
            "asked": exchanges[index].asked,
            "questions": _newest([one.question for one in exchanges[: index + 1]]),
            "pictures": _newest([picture.name for one in exchanges[: index + 1] for picture in one.pictures]),
            "answer": one_or_two([one.text[:MOST_CHARACTERS] for one in answers]),
            "settings": one_or_two(
                [{s.name: getattr(one.sampling, s.name) for s in settings_of(one.sampling)} for one in answers]
            ),
        }
        self._append(json.dumps(record, ensure_ascii=False).translate(_CONTROLS) + "\n")

    def _append(self, text: str) -> None:
        try:
            with self._lock, self.path.open("a", encoding="utf-8") as file:
                if file.tell() > MOST_BYTES:
                    raise RequestError("This server has as many ratings as it keeps. Nothing was written.")
                file.write(text)
        except OSError as error:
            reason = error.strerror or str(error)
            raise ConfigError(f"--feedback {self.path} can't be written ({reason}).") from error


def _newest(texts: list[str]) -> list[str]:
    """The last of these that are not too long together; the last one in any case, cut."""
    kept: list[str] = []
    left = MOST_CHARACTERS
    for text in reversed(texts):
        if kept and len(text) > left:
            break
        kept.insert(0, text[:left])
        left -= len(text)
    return kept
