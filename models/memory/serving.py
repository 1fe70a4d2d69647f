"""How many chats a model answers and what memory they may take, as a configuration says. Needs no torch."""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_QUEUE = 32
_TOO_MANY = 2**63  # bytes, for any computer to count
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclass(frozen=True, kw_only=True)
class Serving:
    """`max_chats` at once (None: as many as cost little, see sizes.py), `max_queue` more that wait, and the
    bytes that keys and values may take (None: what these chats need)."""

    max_chats: int | None = None
    max_queue: int = MAX_QUEUE
    kv_bytes: int | None = None


def parse_bytes(text: str) -> int:
    """`2GiB`, `512 MiB` or `1.5G` -> bytes; each unit is 1024 times the one before. Raises ValueError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT])(?:i?B)?", text.strip(), re.IGNORECASE)
    count = float(match[1]) * _UNITS[match[2].upper()] if match else 0.0
    if not 1 <= count < _TOO_MANY:
        raise ValueError(f"{text[:80]!r} is not an amount of memory; write for example 2GiB or 512MiB.")
    return int(count)


def size(count: int) -> str:
    """Bytes as a text."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"
