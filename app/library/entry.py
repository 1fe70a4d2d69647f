"""What a library knows of each offer, and what it needs from whoever brings models into memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from app.library.offers import Offer
from engine.chat_model import ChatModel
from engine.stats import Counters

EntryState = Literal["not here", "downloading", "here", "waiting", "loading", "loaded", "unloading"]
BUSY: Sequence[EntryState] = ("downloading", "waiting", "loading", "unloading")  # states that change by themselves


class Loaded(Protocol):
    """A model in memory, with its engine."""

    model: ChatModel
    created: int  # seconds since 1970

    def stats(self) -> Counters:
        """The counters of whatever answers."""

    def changed(self) -> str:
        """Why it can't be used any more: a file that it is mapped from has changed. Empty while all is well."""

    def close(self) -> None:
        """Stop the engine and let go of all memory. No answer is running."""


class Loader(Protocol):
    """Brings an offer into memory."""

    def needed(self, offer: Offer, loaded: Sequence[Loaded]) -> Need:
        """What it takes, and what there is. Raises MiniVLMError for files that can't be used."""

    def load(self, offer: Offer, progress: Callable[[int, int], None]) -> Loaded:
        """Load it. `progress`: bytes of the files read, of how many. Raises MiniVLMError."""

    def used_bytes(self) -> int:
        """The memory that is taken, on the device where models go."""


@dataclass(frozen=True, kw_only=True)
class Need:
    """Bytes that a model takes on its `device`, those `free` there, and those that each loaded model would give back
    (in the order of the models that were asked about)."""

    num_bytes: int
    free: int
    given_back: Sequence[int]
    device: str


@dataclass
class Entry:
    """An offer and what has become of it. `line` says why the last try failed, or what loading did to the memory."""

    offer: Offer
    state: EntryState
    progress: float = 0.0  # share of the files' bytes that were read, or of those to be fetched that have come
    num_bytes: int = 0  # that are to be fetched
    line: str = ""
    loaded: Loaded | None = None
    is_wanted: bool = False  # on its way to the library's thread
    keeping: frozenset[str] = frozenset()  # those that must not go for it
    num_leases: int = 0
    last_used: float = field(default_factory=time.monotonic)
