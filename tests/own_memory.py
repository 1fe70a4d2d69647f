"""How much memory this process has, as Linux tells it."""

from __future__ import annotations

from pathlib import Path


def own_and_mapped() -> tuple[int, int]:
    """Bytes of the process's own, and of files that it has mapped and read."""
    lines = (line.partition(":") for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines())
    values = {key: value for key, _, value in lines}
    own, mapped = (1024 * int(values[key].split()[0]) for key in ("RssAnon", "RssFile"))
    return own, mapped
