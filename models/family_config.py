"""The keys of a YAML that every family takes; a family's own `Config` (models/families) adds its."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from models.conversation import Sampling
from models.errors import ConfigError
from models.memory.serving import MAX_QUEUE, Serving, parse_bytes
from models.model_info import ModelInfo
from models.tasks import Task

DTYPES = ("auto", "float32", "bfloat16", "float16")
QUANTIZATIONS = ("auto", "none", "8bit", "4bit")


def released_file(hint: str, *, default: Any = dataclasses.MISSING) -> Any:
    """A field that names a released file or folder (local path or hub id); `hint` says where it comes from."""
    return field(default=default, metadata={"released": hint})


@dataclass(frozen=True, kw_only=True)
class FamilyConfig:
    """The keys every family takes. `source` is the YAML file itself, from which relative paths start.

    `is_converted`: the weights lie in the folders beside the YAML, as models/conversion writes them.
    """

    source: Path
    family: str
    name: str = ""
    description: str = ""
    is_toy: bool = False
    is_converted: bool = False
    device: str = "auto"
    dtype: str = "auto"
    quantization: str = "auto"
    context_tokens: int | None = None  # as the family or its config.json says
    max_chats: int | None = None
    max_queue: int = MAX_QUEUE
    kv_memory: str | None = None
    sampling: Sampling = field(default_factory=Sampling)

    def __post_init__(self) -> None:
        self.check_choice("dtype", DTYPES)
        self.check_choice("quantization", QUANTIZATIONS)
        if self.context_tokens is not None and self.context_tokens < 1:
            raise ConfigError(f"{self.source}: context_tokens is {self.context_tokens}; it must be more than 0.")
        if self.max_chats is not None and self.max_chats < 1:
            raise ConfigError(f"{self.source}: max_chats is {self.max_chats}; it must be more than 0.")
        if self.max_queue < 0:
            raise ConfigError(f"{self.source}: max_queue is {self.max_queue}; it must be 0 or more.")
        if self.kv_memory is not None:
            try:
                parse_bytes(self.kv_memory)
            except ValueError as error:
                raise ConfigError(f"{self.source}: kv_memory: {error}") from error

    @property
    def is_quantized(self) -> bool:
        """Whether the language model's weights are to be shrunk; `auto` is decided by the loader."""
        return self.quantization in ("8bit", "4bit")

    @property
    def serving(self) -> Serving:
        """How many chats, and their memory."""
        kv_bytes = None if self.kv_memory is None else parse_bytes(self.kv_memory)
        return Serving(max_chats=self.max_chats, max_queue=self.max_queue, kv_bytes=kv_bytes)

    def model_info(
        self, *, tasks: tuple[Task, ...], trained_context: int, default_name: str = "", **facts: Any
    ) -> ModelInfo:
        """The facts for the page: those that the YAML gives in every family, and a family's own as `facts`.

        `trained_context` is the longest prompt plus answer in tokens where the YAML does not say; `default_name` is the
        name of a model that has none (else the family's).
        """
        return ModelInfo(
            name=self.name or default_name or self.family,
            family=self.family,
            tasks=tasks,
            sampling=self.sampling,
            description=self.description,
            is_toy=self.is_toy,
            context_tokens=self.context_tokens or trained_context,
            quantization=self.quantization if self.is_quantized else "none",
            **facts,
        )

    def check_choice(self, key: str, known: Iterable[str]) -> None:
        """Raises ConfigError where a key has another value than the known ones."""
        if getattr(self, key) not in known:
            raise ConfigError(f"{self.source}: {key} is {getattr(self, key)!r}; choose one of {', '.join(known)}.")
