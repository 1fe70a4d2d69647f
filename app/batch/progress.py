"""How far a file of questions is: a bar on a terminal, and a line now and then where stderr goes to a file."""

from __future__ import annotations

import sys
import time
from typing import TextIO

from huggingface_hub.utils import tqdm

LINE_EVERY = 30.0  # seconds


class ProgressReport:
    """Counts answered questions on stderr. `done` of `total` were answered by an earlier run."""

    def __init__(self, total: int, *, done: int = 0, out: TextIO | None = None, every: float = LINE_EVERY) -> None:
        self._out = out or sys.stderr
        self._total, self._done, self._before, self._errors = total, done, done, 0
        self._every = every
        self._began = self._said = time.monotonic()
        self._bar = None
        if self._out.isatty():
            self._bar = tqdm(total=total, initial=done, desc="Answering", unit=" questions", file=self._out)

    def advance(self, *, is_error: bool) -> None:
        """One more question has its result."""
        self._done += 1
        self._errors += is_error
        if self._bar is not None:
            self._bar.set_postfix_str(f"errors: {self._errors}" if self._errors else "", refresh=False)
            self._bar.update()
        elif (now := time.monotonic()) - self._said >= self._every:
            self._said = now
            left = (self._total - self._done) * (now - self._began) / (self._done - self._before)
            errors = f", errors: {self._errors}" if self._errors else ""
            print(
                f"{self._done} of {self._total} answered{errors}, about {left:.0f} s left", file=self._out, flush=True
            )

    def note(self, text: str) -> None:
        """A line beside the bar."""
        if self._bar is not None:
            self._bar.write(text, file=self._out)
        else:
            print(text, file=self._out, flush=True)

    def close(self) -> None:
        """Nothing more comes."""
        if self._bar is not None:
            self._bar.close()
