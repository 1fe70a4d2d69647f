"""How fast the first answer was, for the log: what people with a small machine want to know, measured on theirs."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass, field

logger = logging.getLogger(__name__)


@dataclass
class Stopwatch:
    """The moments of one answer, by `time.monotonic`; 0 is not yet."""

    begun: float = field(default_factory=time.monotonic)
    prepared: float = 0.0  # pictures encoded, prompt in the loop
    first_token: float = 0.0
    num_first: int = 0  # tokens of the first update

    def is_prepared(self) -> None:
        """The prompt is in the loop."""
        self.prepared = time.monotonic()

    def has_tokens(self, number: int) -> None:
        """So many tokens have come."""
        if not self.first_token:
            self.first_token, self.num_first = time.monotonic(), number

    def line(self, *, num_prompt_tokens: int, num_image_tokens: int, num_new_tokens: int) -> str:
        """What the log says, once the answer has ended."""
        picture = "the picture took" if num_image_tokens else "the prompt was prepared in"
        more, seconds = num_new_tokens - self.num_first, time.monotonic() - self.first_token
        speed = f", then {more / seconds:.1f} tokens per second" if more > 0 and seconds > 0 else ""
        return (
            f"First answer: {picture} {self.prepared - self.begun:.2f} s, the first token came "
            f"{self.first_token - self.prepared:.2f} s later ({num_prompt_tokens} prompt tokens){speed}."
        )


class FirstAnswer:
    """Logs one line, for the first answer that ends by itself and has tokens."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._is_said = False

    def say(self, watch: Stopwatch, **counts: int) -> None:
        """The keyword arguments are those of `Stopwatch.line`."""
        with self._lock:
            if self._is_said or not watch.first_token:
                return
            self._is_said = True
        logger.info(watch.line(**counts))
