"""Every released model at full size, as tensors without memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from models.tensors.weights import Part
from tests.models.layouts import minigpt_full_size, moe_full_size

BITS = {"none": "16 bit", "8bit": "8 bit", "4bit": "4 bit"}


def released() -> Iterator[tuple[str, Mapping[str, Part]]]:
    """Every model that a user would begin with, as tensors without memory: its configuration's name, and its parts."""
    for name, layouts in minigpt_full_size.VARIANTS.items():
        if "stage" not in name or name == "tinygptv_stage4":
            yield name, minigpt_full_size.parts_of(name, layouts[0])
    for name, (layout, _) in moe_full_size.VARIANTS.items():
        if "stage" not in name:
            yield name, moe_full_size.parts_of(name, layout)
