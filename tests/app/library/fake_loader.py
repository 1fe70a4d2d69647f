"""A loader without weights: scripted models of given sizes, and loading that waits for a test."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from app.library.entry import Loaded, Loader, Need
from app.library.library import ModelLibrary
from app.library.offers import Offer
from engine.stats import EngineStats
from models.errors import CheckpointCorrupt
from models.model_info import ModelInfo
from tests.fakes import INFO, ScriptedModel
from tests.waiting import eventually

MIB = 2**20


class FakeLoaded(Loaded):
    """A scripted model; `file_changed` is why it can't be used any more."""

    def __init__(self, offer: Offer, info: ModelInfo) -> None:
        self.model = ScriptedModel(info=info)
        self.num_bytes = offer.num_bytes
        self.created = 1
        self.file_changed = ""
        self.is_closed = False

    def stats(self) -> EngineStats:
        return EngineStats(**dict.fromkeys(EngineStats.__dataclass_fields__, 0))

    def changed(self) -> str:
        return self.file_changed

    def close(self) -> None:
        assert self.model.open_streams == 0, "it was closed while it answered"
        self.is_closed = True


@dataclass
class FakeLoader(Loader):
    """`memory` bytes for all; `gate` must be released for every quarter of a file; `damaged` offers can't be loaded.
    `infos`: those that are not as INFO."""

    memory: int = 100 * MIB
    gate: threading.Semaphore | None = None
    damaged: set[str] = field(default_factory=set)
    infos: dict[str, ModelInfo] = field(default_factory=dict)
    made: dict[str, FakeLoaded] = field(default_factory=dict)

    def needed(self, offer: Offer, loaded: Sequence[Loaded]) -> Need:
        sizes = [one.num_bytes for one in loaded if isinstance(one, FakeLoaded)]
        return Need(num_bytes=offer.num_bytes, free=self.memory - sum(sizes), given_back=sizes, device="cpu")

    def load(self, offer: Offer, progress: Callable[[int, int], None]) -> Loaded:
        for quarter in range(1, 5):
            if self.gate is not None:
                self.gate.acquire()
            progress(quarter * offer.num_bytes // 4, offer.num_bytes)
        if offer.id in self.damaged:
            raise CheckpointCorrupt(f"{offer.id}.pth is cut off.")
        self.made[offer.id] = FakeLoaded(offer, self.infos.get(offer.id, replace(INFO, name=offer.name)))
        return self.made[offer.id]

    def used_bytes(self) -> int:
        return sum(one.num_bytes for one in self.made.values() if not one.is_closed)


def offer(name: str, size: int = 10, problem: str = "") -> Offer:
    """An offer of so many MiB."""
    return Offer(id=name, path=Path(f"{name}.yaml"), name=name.title(), num_bytes=size * MIB, problem=problem)


def scripted(library: ModelLibrary, name: str) -> ScriptedModel:
    """The model in memory under this name."""
    model = library.loaded()[name].model
    assert isinstance(model, ScriptedModel)
    return model


def state(library: ModelLibrary, name: str) -> str:
    """What has become of an offer."""
    return next(entry.state for entry in library.entries if entry.offer.id == name)


def line(library: ModelLibrary, name: str) -> str:
    """What there is to say about an offer."""
    return next(entry.line for entry in library.entries if entry.offer.id == name)


def settle(library: ModelLibrary) -> None:
    """Wait until nothing is on its way."""
    assert eventually(lambda: not library.is_busy)
