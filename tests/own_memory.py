"""How much memory this process has, as Linux tells it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

_STATUS, _REFERENCES = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_FORGET_THE_MOST = "5"  # what Linux takes there for it


def own_and_mapped() -> tuple[int, int]:
    """Bytes of the process's own, and of files that it has mapped and read."""
    own, mapped = _values("RssAnon", "RssFile")
    return own, mapped


def most_beside(compute: Callable[[], object]) -> int:
    """Bytes that there were at the worst moment of `compute`, beside those before it; what it returns is let go."""
    (before,) = _values("VmRSS")
    _REFERENCES.write_text(_FORGET_THE_MOST, encoding="ascii")
    compute()
    (most,) = _values("VmHWM")
    return most - before


def _values(*keys: str) -> list[int]:
    lines = (line.partition(":") for line in _STATUS.read_text(encoding="ascii").splitlines())
    values = {key: value for key, _, value in lines}
    return [1024 * int(values[key].split()[0]) for key in keys]
