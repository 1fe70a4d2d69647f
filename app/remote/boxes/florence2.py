"""Boxes as Florence-2 writes them: `car<loc_53><loc_334><loc_933><loc_774>`, on a grid of 1000 bins.

A label may have several boxes (arXiv:2311.06242). Polygons and the four corners of `<OCR_WITH_REGION>` are written
with the same tokens and can't be told from boxes, so no task here asks for them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from app.remote.boxes.box_format import Size
from app.remote.boxes.tags import hidden
from app.remote.remote_tasks import RemoteTask, asked_as
from models.grounding import Box, BoxSpan
from models.tasks import CAPTION, DETECTION, GROUNDING, IDENTIFY, Task

BINS = 1000
_RUN = re.compile(r"(?:<loc_\d{1,3}>)+")
_TAG = re.compile(r"</?(?:s|pad|unk|mask|od|poly|and|sep|region_cap|grounding)>|<loc_\d{1,3}>")
_LABEL_BEGINS = re.compile(r"[^<>\n]*\Z")
MAX_LABEL = 500  # characters

TASKS = (
    asked_as("<CAPTION>", CAPTION, prompt="[caption] "),
    RemoteTask(
        label="Describe",
        identifier="[describe]",
        prompt="[describe] ",
        hint="A long description of the image.",
        template="<MORE_DETAILED_CAPTION>",
    ),
    RemoteTask(
        label="Objects",
        identifier="[objects]",
        prompt="[objects] ",
        hint="Everything the model knows, each with its box.",
        template="<OD>",
        gives_boxes=True,
    ),
    asked_as("<OPEN_VOCABULARY_DETECTION>{}", DETECTION),
    asked_as(
        "<CAPTION_TO_PHRASE_GROUNDING>{}",
        GROUNDING,
        prompt="[grounding] ",
        hint="Type a description: each of its phrases gets its boxes.",
    ),
    asked_as("<REGION_TO_CATEGORY>{box}", IDENTIFY),
)


@dataclass(frozen=True)
class Florence2Boxes:
    """See the module."""

    tasks: tuple[Task, ...] = TASKS
    extra_body: Mapping[str, Any] = field(default_factory=lambda: {"skip_special_tokens": False})

    def read(self, text: str, size: Size, *, is_whole: bool) -> tuple[BoxSpan, ...]:
        """See BoxFormat. The label is what stands before the boxes, on their line, after the last tag."""
        del size
        spans: list[BoxSpan] = []
        for run in _RUN.finditer(text):
            numbers = [int(number) for number in re.findall(r"\d+", run[0])]
            boxes = tuple(_box(*numbers[i : i + 4]) for i in range(0, len(numbers) - 3, 4))
            if not boxes:
                continue
            begin = run.start()
            label = ""
            before = text[max(spans[-1].end if spans else 0, begin - MAX_LABEL) : begin]
            if words := _LABEL_BEGINS.search(before[max(before.rfind(">"), before.rfind("<")) + 1 :]):
                label = " ".join(words[0].split())
                begin -= len(words[0].lstrip())
            spans.append(BoxSpan(begin, run.end(), label, boxes))
        return hidden(text, spans, _TAG, is_whole=is_whole)

    def write(self, box: Box, size: Size) -> str:
        """See BoxFormat."""
        del size
        return "".join(f"<loc_{min(BINS - 1, int(edge * BINS))}>" for edge in (box.x0, box.y0, box.x1, box.y1))


def _box(x0: int, y0: int, x1: int, y1: int) -> Box:
    """A bin stands for its middle, as in the original's `dequantize`."""
    return Box.from_corners(*((number + 0.5) / BINS for number in (x0, y0, x1, y1)))
