"""Boxes as Kosmos-2 writes them: `<phrase> a fire</phrase><object><patch_index_0005><patch_index_0911></object>`.

A patch is one of 32 x 32, counted from the top left; a box is its first and its last patch (arXiv:2306.14824).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from app.remote.boxes.box_format import Size
from app.remote.boxes.tags import hidden
from app.remote.remote_tasks import asked_as
from models.grounding import Box, BoxSpan
from models.tasks import CAPTION, CHAT, GROUNDING, IDENTIFY, QUESTION, REFER, Task

SIDE = 32  # patches
_DELIMITER = "</delimiter_of_multi_objects/>"
_PAIR = r"<patch_index_\d{4}><patch_index_\d{4}>"
_PHRASE = re.compile(
    rf"(?:<phrase>(?P<phrase>[^<>]*)</phrase>)?<object>(?P<boxes>{_PAIR}(?:{_DELIMITER}{_PAIR})*)</object>"
)
_TAG = re.compile(rf"</?(?:grounding|phrase|object|image|s)>|<patch_index_\d{{1,4}}>|{_DELIMITER}")

TASKS = (
    CHAT,
    asked_as(
        "<grounding>An image of",
        CAPTION,
        prompt="[caption] ",
        hint="A short description, every phrase with its box.",
        gives_boxes=True,
    ),
    asked_as("<grounding>Describe this image in detail:", GROUNDING),
    asked_as("<grounding>Question: {} Answer:", QUESTION, gives_boxes=True),
    asked_as("<grounding><phrase>{}</phrase>", REFER),
    asked_as("<grounding><phrase>It</phrase>{box} is", IDENTIFY),
)


@dataclass(frozen=True)
class Kosmos2Boxes:
    """See the module."""

    tasks: tuple[Task, ...] = TASKS
    extra_body: Mapping[str, Any] = field(default_factory=lambda: {"skip_special_tokens": False})

    def read(self, text: str, size: Size, *, is_whole: bool) -> tuple[BoxSpan, ...]:
        """See BoxFormat."""
        del size
        spans: list[BoxSpan] = []
        for match in _PHRASE.finditer(text):
            numbers = [int(number) for number in re.findall(r"\d{4}", match["boxes"])]
            if max(numbers) < SIDE * SIDE:
                boxes = tuple(_box(*pair) for pair in zip(numbers[::2], numbers[1::2], strict=True))
                spans.append(BoxSpan(*match.span(), " ".join((match["phrase"] or "").split()), boxes))
        return hidden(text, spans, _TAG, is_whole=is_whole)

    def write(self, box: Box, size: Size) -> str:
        """See BoxFormat."""
        del size
        first = _patch(box.x0, box.y0)
        last = _patch(max(box.x0, box.x1 - 1e-6), max(box.y0, box.y1 - 1e-6))
        return f"<object><patch_index_{first:04}><patch_index_{last:04}></object>"


def _patch(x: float, y: float) -> int:
    return min(SIDE - 1, int(y * SIDE)) * SIDE + min(SIDE - 1, int(x * SIDE))


def _box(first: int, last: int) -> Box:
    """Between the middles of two patches; of those in one row or column, all of them, as the original has it."""
    (y0, x0), (y1, x1) = divmod(first, SIDE), divmod(last, SIDE)
    edge, far_edge = (0.0, 1.0) if x0 == x1 or y0 == y1 else (0.5, 0.5)
    return Box.from_corners((x0 + edge) / SIDE, (y0 + edge) / SIDE, (x1 + far_edge) / SIDE, (y1 + far_edge) / SIDE)
