"""A language model over several GPUs: which of its decoder layers goes where, worked out before anything is allocated.

Everything but these layers (embedding, final norm, output head, vision tower, connector) is on the first GPU.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import infer_auto_device_map  # type: ignore[import-untyped]
from accelerate.utils import compute_module_sizes  # type: ignore[import-untyped]
from torch import nn
from transformers import PreTrainedModel

from models.errors import NotEnoughMemory
from models.memory.serving import size
from models.memory.sizes import HEADROOM, bytes_by_tensor
from models.tensors.weights import Part


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Where a model goes. `device_map`: module of the language model -> device, as transformers and accelerate take it.

    `weights` are the bytes on each device, `layers` the number of decoder layers there.
    """

    device_map: Mapping[str, torch.device]
    weights: Mapping[torch.device, int]
    layers: Mapping[torch.device, int]

    def share(self, device: torch.device, total: int) -> int:
        """The part of what all layers take alike, such as keys and values, that is on a device."""
        return total * self.layers[device] // sum(self.layers.values())


def spread(
    parts: Mapping[str, Part],
    language_model: PreTrainedModel,
    free: Mapping[torch.device, int],
    *,
    dtype: torch.dtype,
    quantization: str,
) -> Spread:
    """Layers over the devices of `free` (bytes of each), in proportion to what each has left for them.

    `language_model` is the empty module of that part. Raises NotEnoughMemory.
    """
    prefix, layers = decoder_layers(language_model)
    first, *_ = devices = list(free)
    by_layer, fixed = [0] * len(layers), 0
    for part in parts.values():
        for name, count in bytes_by_tensor(part, dtype, quantization):
            if part is parts["language_model"] and name.startswith(f"{prefix}."):
                by_layer[int(name.removeprefix(f"{prefix}.").partition(".")[0])] += count
            else:
                fixed += count
    room = {device: int(count / HEADROOM) - fixed * (device == first) for device, count in free.items()}
    if min(room.values()) < 0 or sum(room.values()) < sum(by_layer):
        raise _too_large(fixed + sum(by_layer), free)
    placed = _place(layers, [room[device] for device in devices], dtype)
    weights, counts = dict.fromkeys(devices, 0), dict.fromkeys(devices, 0)
    weights[first] = fixed
    device_map = dict.fromkeys(_beside(language_model, prefix), first)
    for index, number in enumerate(placed):
        device_map[f"{prefix}.{index}"] = devices[number]
        weights[devices[number]] += by_layer[index]
        counts[devices[number]] += 1
    if any(weights[device] * HEADROOM > free[device] for device in devices):
        raise _too_large(fixed + sum(by_layer), free)
    return Spread(device_map=device_map, weights=weights, layers=counts)


def decoder_layers(language_model: PreTrainedModel) -> tuple[str, nn.ModuleList]:
    """The name of the list of decoder layers, and the list."""
    inner: Any = language_model.base_model
    return f"{language_model.base_model_prefix}.layers", inner.layers


def layer_devices(language_model: PreTrainedModel) -> list[torch.device]:
    """Where each decoder layer of a loaded model is."""
    return [next(layer.parameters()).device for layer in decoder_layers(language_model)[1]]


def is_spread(language_model: PreTrainedModel) -> bool:
    """Whether the decoder layers are on several devices."""
    return len(set(layer_devices(language_model))) > 1


def most_for_all(layers: Mapping[torch.device, int], free: Mapping[torch.device, int]) -> int:
    """What all layers together may take, each as much, where each device has so much for its own."""
    total = sum(layers.values())
    return min(free[device] * total // count for device, count in layers.items() if count)


def _place(layers: nn.ModuleList, room: Sequence[int], dtype: torch.dtype) -> list[int]:
    """For each layer the number of the device that accelerate puts it on."""
    sizes = compute_module_sizes(layers, dtype=dtype)
    largest = max(sizes[str(index)] for index in range(len(layers)))
    # In accelerate's own bytes, which know nothing of quantization: each device's share, to the nearest layer.
    most = {number: int(sizes[""] * own / sum(room)) + largest // 2 for number, own in enumerate(room)}
    most[0] += largest  # accelerate leaves so much free there, for a layer that would come from the disk
    most[len(room) - 1] = 2 * sizes[""]  # what is left; whether it fits is checked with the real bytes
    kinds = sorted({type(layer).__name__ for layer in layers})
    found = infer_auto_device_map(
        layers, max_memory=most, no_split_module_classes=kinds, dtype=dtype, clean_result=False
    )
    return [found[str(index)] for index in range(len(layers))]


def _beside(module: nn.Module, prefix: str, path: str = "") -> list[str]:
    """The names of the largest modules that hold none of the decoder layers."""
    names: list[str] = []
    for name, child in module.named_children():
        own = f"{path}{name}"
        if own == prefix:
            continue
        names += _beside(child, prefix, f"{own}.") if prefix.startswith(f"{own}.") else [own]
    return names


def _too_large(weights: int, free: Mapping[torch.device, int]) -> NotEnoughMemory:
    there = " and ".join(f"{size(count)} on {device}" for device, count in free.items())
    return NotEnoughMemory(
        f"About {size(weights)} of weights do not fit into what is free: {there}. Try --quantization 4bit or more GPUs."
    )
