"""What a container, or a service with a limit, may still take of a machine's memory: Linux's control groups."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil

UNLIMITED = 2**63
_ROOT = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")
# Limit, use, and what stands in front of counters that include the groups inside: of version 2, and of 1.
_FILES = (("memory.max", "memory.current", ""), ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_"))


def free_memory() -> int:
    """Bytes of the machine's memory that this process may still take."""
    return min(psutil.virtual_memory().available, free_in_groups())


def free_in_groups() -> int:
    """Bytes that this process's groups still allow: of nested ones the least; UNLIMITED where nothing is said.

    Cached pages of files count as used there, but the system takes them back when memory is needed.
    """
    return min((_free(group, *files) for group in _groups() for files in _FILES), default=UNLIMITED)


def _groups() -> Iterator[Path]:
    """The folders of this process's group and of those around it. In a container the outermost is its own."""
    yield from (_ROOT, _ROOT / "memory")
    try:
        lines = _OWN.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        group = _ROOT / "memory" if controllers else _ROOT
        for name in filter(None, path.split("/")):
            group /= name
            yield group


def _free(group: Path, limit_file: str, used_file: str, counted: str) -> int:
    try:
        limit, used = ((group / name).read_text(encoding="utf-8").strip() for name in (limit_file, used_file))
        if limit == "max":
            return UNLIMITED
        counters = dict(line.split() for line in (group / "memory.stat").read_text(encoding="utf-8").splitlines())
        cached = int(counters[f"{counted}active_file"]) + int(counters[f"{counted}inactive_file"])
        return max(0, int(limit) - int(used) + cached)
    except (OSError, ValueError, KeyError):
        return UNLIMITED
