"""The engine's counters, each written once: tests, `/metrics`, the log and the soak read them from here."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal, Protocol

CounterKind = Literal["in use", "level", "total"]
"""In use: zero whenever no request runs or waits. Level: any other number that goes up and down, or is fixed at the
start. Total: counted since the start."""


def counter(kind: CounterKind, text: str) -> dict[str, str]:
    """The metadata of a counter's field, for `/metrics` and the log."""
    return {"kind": kind, "help": text}


class Counters(Protocol):
    """A dataclass whose fields say in their metadata what they count: EngineStats, and those of a model elsewhere."""

    __dataclass_fields__: ClassVar[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class EngineStats:
    """What the engine holds at one moment, and what it has done since the start."""

    active: int = field(metadata=counter("in use", "Questions that are being answered."))
    waiting: int = field(metadata=counter("in use", "Questions in the queue."))
    in_loop: int = field(metadata=counter("in use", "Requests in the generation loop."))
    known_to_loop: int = field(
        metadata=counter(
            "in use", "Requests that the loop remembers: running, or ended and not closed by their reader."
        )
    )
    pages_in_use: int = field(metadata=counter("in use", "Pages of keys and values in use by running answers."))
    images_pinned: int = field(metadata=counter("in use", "Images in use by running answers."))
    pages_kept: int = field(metadata=counter("level", "Pages kept for the next question of some chat."))
    pages_total: int = field(metadata=counter("level", "Pages of keys and values, fixed at the start."))
    images_held: int = field(metadata=counter("level", "Encoded images in memory."))
    image_slots: int = field(metadata=counter("level", "Places for encoded images, fixed at the start."))
    page_bytes: int = field(metadata=counter("level", "Bytes of one page, all layers."))
    image_bytes: int = field(metadata=counter("level", "Bytes of one place for an image."))
    copy_bytes: int = field(
        metadata=counter(
            "level", "Bytes set aside for keys and values that are decoded without pages, fixed at the start."
        )
    )
    images_encoded: int = field(metadata=counter("total", "Images encoded since the start."))
    images_reused: int = field(metadata=counter("total", "Images found in memory since the start."))
    prompt_tokens: int = field(metadata=counter("total", "Prompt tokens since the start."))
    prompt_tokens_reused: int = field(metadata=counter("total", "Prompt tokens found in memory since the start."))
    restarts: int = field(metadata=counter("total", "Restarts of the generation loop after an error."))
    steps_captured: int = field(
        metadata=counter("level", "Decoding steps held as CUDA graphs; constant after the start.")
    )


IN_USE = tuple(one.name for one in fields(EngineStats) if one.metadata["kind"] == "in use")
