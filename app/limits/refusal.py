"""A request that is not served, and the line about it in the log."""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 10.0  # about one client and one reason
LINES_PER_MINUTE = 120  # about all of them
REMEMBERED = 4096  # clients and reasons


class Refused(Exception):
    """The request is answered with this status and reason. The reason is one line that its sender can act on."""

    def __init__(self, status: int, reason: str, *, retry_after: int | None = None) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.retry_after = retry_after


class AuditLog:
    """One line per refused request, and fewer where one client is refused again and again."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last: OrderedDict[tuple[str, str], float] = OrderedDict()
        self._unsaid: dict[tuple[str, str], int] = {}
        self._window = clock()
        self._lines = 0
        self.total = 0

    def write(self, client: str, method: str, path: str, refused: Refused) -> None:
        """Say that this client was refused; what was left out since its last line is counted in the next."""
        self.total += 1
        key = (client, refused.reason)
        now = self._clock()
        if now - self._window >= 60:
            self._window, self._lines = now, 0
        is_early = now - self._last.get(key, -SECONDS_BETWEEN_LINES) < SECONDS_BETWEEN_LINES
        if is_early or self._lines >= LINES_PER_MINUTE:
            self._unsaid[key] = self._unsaid.get(key, 0) + 1
            self._forget()
            return
        self._last[key] = now
        self._last.move_to_end(key)
        self._lines += 1
        unsaid = self._unsaid.pop(key, 0)
        self._forget()
        more = f" ({unsaid} more like it since the last line)" if unsaid else ""
        what = f"{printable(method, 10)} {printable(path)}"
        logger.warning("refused %d: %s from %s: %s%s", refused.status, what, client, refused, more)

    def _forget(self) -> None:
        while len(self._last) > REMEMBERED:
            key, _ = self._last.popitem(last=False)
            self._unsaid.pop(key, None)
        while len(self._unsaid) > REMEMBERED:
            self._unsaid.pop(next(iter(self._unsaid)))


def printable(text: str, limit: int = 100) -> str:
    """Text from outside, safe for one line of a log."""
    shown = "".join(char if char.isprintable() else "?" for char in text[:limit]).replace("\\", "?")
    return shown.encode("ascii", "replace").decode() + ("…" if len(text) > limit else "")


class RepeatedLines(logging.Filter):
    """Lets a logger say the same thing only so often: what a flood of connections makes libraries log."""

    def __init__(self, per_minute: int = 10, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._per_minute = per_minute
        self._clock = clock
        self._seen: dict[str, tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to log it."""
        said = f"{record.name}{record.levelno}{str(record.msg)[:80]}"
        now = self._clock()
        begun, count = self._seen.get(said, (now, 0))
        if now - begun >= 60:
            begun, count = now, 0
        if len(self._seen) > 256:
            self._seen.clear()
        self._seen[said] = (begun, count + 1)
        return count < self._per_minute
