"""The contract of a box format: it reads and writes boxes as the models of one kind do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from models.grounding import Box, BoxSpan
from models.tasks import Task

Size = tuple[int, int]  # width and height in pixels


class BoxFormat(Protocol):
    """One way to write boxes in text."""

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The buttons that the page offers where a YAML names none."""

    @property
    def extra_body(self) -> Mapping[str, Any]:
        """Fields of a request that servers need so that the boxes' tokens are left in the text."""

    def read(self, text: str, size: Size, *, is_whole: bool) -> tuple[BoxSpan, ...] | None:
        """Where boxes are in an answer about a picture of this size; what has only begun at the end of an answer that
        is not whole gets a span without boxes. None: the text is in the program's own markup. Never raises.
        """

    def write(self, box: Box, size: Size) -> str:
        """The box as the model is asked about it."""
