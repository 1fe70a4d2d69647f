"""Texts of the MiniGPT line's training data: the caption processor and how a box is written.

Source: MiniGPT-4 (commit d94738a), `minigpt4/processors/blip_processors.py`, `minigpt4/datasets/datasets/*.py`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

MAX_CAPTION_WORDS = 50


def process_caption(text: str) -> str:
    """Lower case, some punctuation to spaces, runs of white space to one, at most 50 words.

    Source: `BlipCaptionProcessor.pre_caption`.
    """
    text = re.sub(r"[.!\"()*#:;~]", " ", text.lower())
    text = re.sub(r"\s{2,}", " ", text).rstrip("\n").strip(" ")
    words = text.split(" ")
    return " ".join(words[:MAX_CAPTION_WORDS]) if len(words) > MAX_CAPTION_WORDS else text


def box_text(xywh: Sequence[float], image_size: tuple[int, int]) -> str:
    """A COCO box [x, y, width, height] in pixels as `{<x1><y1><x2><y2>}` in percent, each truncated towards zero.

    Unlike `models.grounding.format_box` it neither clips nor rounds up what floating point left just below a number:
    the training data did not. Source: `ReferCOCODataset.preprocess`.
    """
    x, y, width, height = xywh
    image_width, image_height = image_size
    corners = (
        x / image_width * 100,
        y / image_height * 100,
        (x + width) / image_width * 100,
        (y + height) / image_height * 100,
    )
    return "{" + "".join(f"<{int(corner)}>" for corner in corners) + "}"
