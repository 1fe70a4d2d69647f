"""Boxes as Qwen's models write them: JSON, `[{"bbox_2d": [x1, y1, x2, y2], "label": "dog"}]`, often in a code fence.

Qwen2.5-VL counts pixels of the picture as its processor has resized it, Qwen3-VL (and GLM-V) from 0 to 1000.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from app.remote.boxes.box_format import Size
from app.remote.remote_tasks import asked_as
from models.grounding import Box, BoxSpan
from models.tasks import CAPTION, CHAT, DETECTION, IDENTIFY, REFER, Task

# Of the released preprocessor_config.json; a server may have been started with others.
MIN_PIXELS, MAX_PIXELS = 56 * 56, 14 * 14 * 4 * 16384
FACTOR = 28  # patches of 14 pixels, merged two by two
PER_THOUSAND = 1000

_OBJECT = re.compile(r"\{[^{}]*\}")
# Brackets and fences around a list, and commas in it, belong to the boxes beside them.
_OPENING = re.compile(r"(?:```(?:json)?\s*)?\[\s*$|```(?:json)?\s*$")
_CLOSING = re.compile(r"\s{0,40},?\s{0,40}\](?:\s{0,40}`{1,3})?|\s{0,40},|\s{0,40}`{1,3}")
_BEGUN = re.compile(r"(?:`{1,2}|```(?:j|js|jso|json)?\s*(?:\[\s*)?|\[\s*)$")
_HALF_OBJECT = re.compile(r"\{\s*(?:\"[^{}]*)?")
_WINDOW = 80  # characters before an object in which its list may begin

TASKS = (
    CHAT,
    CAPTION,
    asked_as("Locate every {} in the image and output the bbox coordinates in JSON format.", DETECTION),
    asked_as("Locate {} in the image and output its bbox coordinates in JSON format.", REFER),
    asked_as("Look at the region {box} of the image: {}", IDENTIFY),
)


@dataclass(frozen=True)
class QwenBoxes:
    """`grid`: the numbers go from 0 to this; without one they are pixels of the resized picture."""

    grid: int | None = None
    min_pixels: int = MIN_PIXELS
    max_pixels: int = MAX_PIXELS
    tasks: tuple[Task, ...] = TASKS
    extra_body: Mapping[str, Any] = field(default_factory=dict)

    def read(self, text: str, size: Size, *, is_whole: bool) -> tuple[BoxSpan, ...]:
        """See BoxFormat. Boxes of one label that follow each other share a span."""
        width, height = self._scale(size)
        spans: list[BoxSpan] = []
        for match in _OBJECT.finditer(text):
            found = _box(match[0], width, height)
            if found is None:
                continue
            label, box = found
            last = spans[-1] if spans else BoxSpan(0, 0)
            opening = _OPENING.search(text, max(last.end, match.start() - _WINDOW), match.start())
            closing = _CLOSING.match(text, match.end())
            begin = opening.start() if opening else match.start()
            end = closing.end() if closing else match.end()
            if last.boxes and last.label == label and not text[last.end : begin].strip():
                spans[-1] = BoxSpan(last.begin, end, label, (*last.boxes, box))
            else:
                spans.append(BoxSpan(begin, end, label, (box,)))
        half = None if is_whole else _half_begin(text, spans[-1].end if spans else 0)
        return tuple(spans) if half is None else (*spans, BoxSpan(half, len(text)))

    def write(self, box: Box, size: Size) -> str:
        """See BoxFormat."""
        width, height = self._scale(size)
        x0, y0, x1, y1 = box.x0 * width, box.y0 * height, box.x1 * width, box.y1 * height
        return f"[{round(x0)}, {round(y0)}, {round(x1)}, {round(y1)}]"

    def _scale(self, size: Size) -> Size:
        if self.grid is not None:
            return self.grid, self.grid
        return resized(size, min_pixels=self.min_pixels, max_pixels=self.max_pixels)


def resized(size: Size, *, min_pixels: int = MIN_PIXELS, max_pixels: int = MAX_PIXELS) -> Size:
    """The size to which Qwen2.5-VL's processor brings a picture (`smart_resize` of transformers)."""
    width, height = size
    new_width, new_height = (round(side / FACTOR) * FACTOR for side in size)
    if new_width * new_height > max_pixels:
        scale = math.sqrt(width * height / max_pixels)
        new_width, new_height = (max(FACTOR, math.floor(side / scale / FACTOR) * FACTOR) for side in size)
    elif new_width * new_height < min_pixels:
        scale = math.sqrt(min_pixels / (width * height))
        new_width, new_height = (math.ceil(side * scale / FACTOR) * FACTOR for side in size)
    return new_width, new_height


def _half_begin(text: str, last: int) -> int | None:
    """Where the object or the list begins that is only half there at the end; `last` is where the boxes end."""
    brace = text.rfind("{", last)
    if brace >= 0 and not _HALF_OBJECT.fullmatch(text, brace):
        return None
    end = brace if brace >= 0 else len(text)
    begun = _BEGUN.search(text, max(last, end - _WINDOW), end)
    return begun.start() if begun else brace if brace >= 0 else None


def _box(source: str, width: int, height: int) -> tuple[str, Box] | None:
    """Label and box of one JSON object; None if it is no such object."""
    try:
        value = json.loads(source)
        corners = [float(corner) for corner in value.get("bbox_2d") or value.get("bbox") or ()]
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError):
        return None
    if len(corners) != 4 or not all(map(math.isfinite, corners)):
        return None
    label = value.get("label") or value.get("text_content") or ""
    x0, y0, x1, y1 = corners
    box = Box.from_corners(x0 / width, y0 / height, x1 / width, y1 / height)
    return " ".join(label.split()) if isinstance(label, str) else "", box
