"""More layers for a trained vision tower, which begin by changing nothing."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor

_LAYER = re.compile(r"(?P<before>.*\.layers\.)(?P<index>\d+)\.(?P<name>.+)")
_ADDED = ("self_attn.projection.", "mlp.fc2.")  # their outputs go onto the residual stream


def with_copied_layers(state: dict[str, Tensor], copied: Sequence[int]) -> dict[str, Tensor]:
    """An EVA tower's state dict with a copy behind each of the layers `copied`.

    What a copy adds to the residual stream is zero, so the tower gives what it gave; its queries, keys and hidden
    features are at hand for the first step.
    """
    deeper: dict[str, Tensor] = {}
    for full_name, tensor in state.items():
        match = _LAYER.fullmatch(full_name)
        if match is None:
            deeper[full_name] = tensor
            continue
        index, name = int(match["index"]), match["name"]
        place = index + sum(layer < index for layer in copied)
        deeper[f"{match['before']}{place}.{name}"] = tensor
        if index in copied:
            copy = torch.zeros_like(tensor) if name.startswith(_ADDED) else tensor.clone()
            deeper[f"{match['before']}{place + 1}.{name}"] = copy
    return deeper
