"""What visitors think of answers, as lines of JSON in a file of the operator's."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from app.chat.exchange import Exchange, now
from models.errors import ConfigError
from models.sampling_settings import settings_of

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
        record: dict[str, Any] = {
            "kind": "rating",
            "rating": rating,
            "time": now(),
            "model": exchange.model,
            "asked": exchange.asked,
            "questions": [one.question for one in exchanges[: index + 1]],
            "pictures": [picture.name for one in exchanges[: index + 1] for picture in one.pictures],
            "answer": exchange.text,
            "settings": {one.name: getattr(exchange.sampling, one.name) for one in settings_of(exchange.sampling)},
        }
        self._append(json.dumps(record, ensure_ascii=False) + "\n")

    def _append(self, text: str) -> None:
        try:
            with self._lock, self.path.open("a", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            reason = error.strerror or str(error)
            raise ConfigError(f"--feedback {self.path} can't be written ({reason}).") from error
