"""The box formats by their names in a YAML, and which of them a model most likely writes, by the model's name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from app.remote.boxes.box_format import BoxFormat, Size
from app.remote.boxes.florence2 import Florence2Boxes
from app.remote.boxes.kosmos2 import Kosmos2Boxes
from app.remote.boxes.qwen import MAX_PIXELS, MIN_PIXELS, PER_THOUSAND, QwenBoxes
from models.grounding import Box, BoxSpan, format_box
from models.tasks import CHAT, Task

AUTO = "auto"
MARKUP = "minigpt"
NAMES = (AUTO, MARKUP, "qwen2.5-vl", "qwen3-vl", "kosmos-2", "florence-2", "none")

# What the name of a model tells; the first that it contains.
_BY_NAME = (
    ("qwen2.5-vl", "qwen2.5-vl"),
    ("qwen2.5vl", "qwen2.5-vl"),  # Ollama's
    ("qwen2-5-vl", "qwen2.5-vl"),
    ("qwen3-vl", "qwen3-vl"),
    ("qwen3vl", "qwen3-vl"),
    ("glm-4.1v", "qwen3-vl"),
    ("glm-4.5v", "qwen3-vl"),
    ("kosmos-2", "kosmos-2"),
    ("florence-2", "florence-2"),
    ("minigpt", MARKUP),
)


@dataclass(frozen=True)
class MarkupBoxes:
    """The format of a model that writes this program's own markup; without `has_boxes`, of one that writes no boxes.

    Markup needs no reading here: `read` gives None, and the page and the API parse it as they parse every answer.
    """

    has_boxes: bool = True
    tasks: tuple[Task, ...] = (CHAT,)
    extra_body: Mapping[str, Any] = field(default_factory=dict)

    def read(self, text: str, size: Size, *, is_whole: bool) -> tuple[BoxSpan, ...] | None:
        """See BoxFormat."""
        del text, size, is_whole
        return None if self.has_boxes else ()

    def write(self, box: Box, size: Size) -> str:
        """See BoxFormat."""
        del size
        return format_box(box)


def guess(model: str) -> str:
    """The name of the format that a model of this name writes; that of the markup for all others."""
    plain = model.lower().replace("_", "-")
    return next((name for part, name in _BY_NAME if part in plain), MARKUP)


def box_format(name: str, *, min_pixels: int = MIN_PIXELS, max_pixels: int = MAX_PIXELS) -> BoxFormat:
    """The format of a name of NAMES other than AUTO; the pixels are those of Qwen2.5-VL's processor."""
    match name:
        case "qwen2.5-vl":
            return QwenBoxes(min_pixels=min_pixels, max_pixels=max_pixels)
        case "qwen3-vl":
            return QwenBoxes(PER_THOUSAND)
        case "kosmos-2":
            return Kosmos2Boxes()
        case "florence-2":
            return Florence2Boxes()
        case "none":
            return MarkupBoxes(has_boxes=False)
    return MarkupBoxes()
