"""All that a configuration's model will take, for one line before anything is allocated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import psutil
import torch
from PIL import Image

from models import devices
from models.errors import NotEnoughMemory
from models.family_config import FamilyConfig
from models.memory.activations import most_bytes
from models.memory.serving import size
from models.memory.sizes import KeysAndValues, image_slots, loading_bytes, plan_keys_and_values, weight_bytes
from models.memory.spreading import Spread, most_for_all, spread
from models.tensors.weights import Part
from models.vision_language_model import VisionLanguageModel

# On a CPU, for each byte that a pass of the tower uses at once: what it has freed stays the process's for a while
# (measured at full size: 60 MiB for images where 38 would be used, 150 to 215 where 92).
_FREED = 2


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """Bytes that a model will take on its device.

    `program` is what the process has before (on a CPU), `weights` are those once loaded, `loading` is at its worst
    moment, `images` those of the encoded ones and of a pass of the vision tower.
    """

    program: int
    weights: int
    loading: int
    keys_and_values: KeysAndValues
    images: int
    context_tokens: int
    spread: Spread | None = None

    @property
    def total(self) -> int:
        """The most there will ever be, the program included."""
        return self.program + max(self.loading, self.weights + self.keys_and_values.num_bytes + self.images)

    def line(self) -> str:
        """One line that says so."""
        room = self.keys_and_values
        if self.spread is not None:
            each = (
                f"{device} {size(count)} of weights and {size(self.spread.share(device, room.num_bytes))} of keys and "
                f"values ({self.spread.layers[device]} layers)"
                for device, count in self.spread.weights.items()
            )
            return f"Memory: {', '.join(each)}; {size(self.images)} for images on the first."
        return (
            f"Memory: {size(self.weights)} of weights ({size(self.loading)} at the worst moment of loading), "
            f"{size(self.images)} for images, up to {size(room.num_bytes)} of keys and values for {room.chats} "
            f"chat{'s' * (room.chats != 1)} at once, taken as they grow to {self.context_tokens} tokens each "
            f"(--max-chats, --kv-memory, --context-tokens); with the program {size(self.total)} at most."
        )


def plan_memory(
    outline: VisionLanguageModel,
    parts: Mapping[str, Part],
    wanted: Sequence[torch.device],
    dtype: torch.dtype,
    config: FamilyConfig,
) -> MemoryPlan:
    """What the model of these parts will take on the `wanted` devices; `outline` is the model without weights.

    Raises NotEnoughMemory where it does not fit on several devices, or more images are asked for than memory can hold.
    """
    device, free = wanted[0], {each: devices.free_bytes(each) for each in wanted}
    weights = weight_bytes(parts.values(), dtype, config.quantization, on_cpu=device.type == "cpu")
    left, spread_out = max(0, free[device] - weights), None
    if len(wanted) > 1:
        spread_out = spread(parts, outline.language_model, free, dtype=dtype, quantization=config.quantization)
        left = most_for_all(spread_out.layers, {each: free[each] - spread_out.weights[each] for each in wanted})
    context_tokens, text = outline.info.context_tokens, outline.language_model.config.get_text_config()
    room = plan_keys_and_values(
        text,
        dtype,
        replace(config.serving, max_chats=1) if outline.info.answers_alone else config.serving,
        context_tokens=context_tokens,
        device=device,
        free=left,
    )
    if spread_out is not None and not room.one_chat <= room.num_bytes <= left:
        raise NotEnoughMemory(
            f"Beside the weights, {size(left)} are free for keys and values on {devices.names_of(wanted)}; "
            f"{size(max(room.one_chat, room.num_bytes))} are needed. Use more GPUs, --quantization 4bit or a shorter "
            "--context-tokens."
        )
    tokens = outline.num_image_tokens
    pixels = outline.pixel_values([Image.new("RGB", (1, 1))])
    tower_pass = most_bytes(lambda: outline.image_embeds(pixels), (outline.vision_tower, outline.connector))
    tower_pass *= _FREED if device.type == "cpu" else 1
    slots = image_slots(context_tokens=context_tokens, num_image_tokens=tokens, max_concurrent=room.chats)
    images = slots * tokens * text.hidden_size * dtype.itemsize
    if images > left:
        raise NotEnoughMemory(
            f"{config.source}: {size(images)} are needed for the {slots:,} images that there may be at once, but "
            f"beside the weights {size(left)} are free on {device}. Take fewer chats (--max-chats) or a shorter "
            "context (--context-tokens)."
        )
    return MemoryPlan(
        program=psutil.Process().memory_info().rss if device.type == "cpu" else 0,
        weights=weights,
        loading=loading_bytes(parts.values(), dtype, config.quantization),
        keys_and_values=room,
        images=images + tower_pass,
        context_tokens=context_tokens,
        spread=spread_out,
    )
