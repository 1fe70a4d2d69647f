"""A CLIP tower that begins as a trained EVA tower: both are pre-norm vision transformers with the same blocks."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from transformers import CLIPVisionConfig

from models.parts.eva_vision import EvaVisionTower
from training.scenes.scene import sample_scene
from training.tiny.images import pixel_values_of
from training.tiny.networks import TowerShape

_CONSTANT = 200.0
_SCENES = 64  # to measure how large the numbers in EVA's blocks are


def clip_config(shape: TowerShape, *, image_size: int, patch_size: int) -> CLIPVisionConfig:
    """CLIP with EVA's exact GELU; without the last block of released towers, whose output is never used."""
    sizes: dict[str, Any] = shape.config_values() | {"patch_size": patch_size}
    return CLIPVisionConfig(**sizes, image_size=image_size, hidden_act="gelu")


@torch.no_grad()
def clip_from_eva(eva: EvaVisionTower, *, patch_size: int) -> dict[str, Tensor]:
    """A state dict for CLIP with as many patches of `patch_size` pixels each, as near to `eva` as CLIP can be.

    CLIP's additional norm in front of the blocks would make all tokens equally large. So the channel that says least is
    given up for a large constant, beside which the size of a token hardly matters, and the norm's affine brings
    everything back. CLIP's features have no norm behind them: all that blocks add is scaled until features have unit
    size, which the blocks' own norms undo.
    """
    rng = np.random.default_rng(0)
    pixel_values = pixel_values_of([sample_scene(rng) for _ in range(_SCENES)], rng)
    embedded = eva.embeddings(pixel_values)
    behind: list[Tensor] = []
    handle = eva.post_layernorm.register_forward_pre_hook(lambda _module, inputs: behind.append(inputs[0]))
    eva.features(pixel_values)
    handle.remove()
    scale = 1 / behind[0].std(-1).mean()

    trained = eva.state_dict()
    kernel, bias = trained["embeddings.patch_embedding.weight"], trained["embeddings.patch_embedding.bias"]
    position = trained["embeddings.position_embedding"][0].clone()
    position[1:] += bias  # CLIP's patch embedding has none
    channel = embedded.flatten(0, 1).var(0).argmin()
    position[:, channel] = _CONSTANT
    shrunk = _shrink(kernel, patch_size)
    shrunk[channel] = 0
    class_embedding = trained["embeddings.class_embedding"].flatten().clone()
    class_embedding[channel] = 0
    mean = _CONSTANT / len(bias)
    keeps = (torch.arange(len(bias)) != channel).float()
    state = {
        "embeddings.class_embedding": class_embedding,
        "embeddings.patch_embedding.weight": shrunk,
        "embeddings.position_embedding.weight": position,
        "pre_layrnorm.weight": keeps * scale * mean * (len(bias) - 1) ** 0.5,
        "pre_layrnorm.bias": keeps * scale * mean,
    }
    for name, tensor in trained.items():
        if not name.startswith("encoder."):
            continue
        if ".self_attn.qkv." in name:
            for letter, part in zip("qkv", tensor.chunk(3), strict=True):
                state[name.replace(".qkv.", f".{letter}_proj.")] = part
        else:
            is_added = ".self_attn.projection." in name or ".mlp.fc2." in name
            state[name.replace(".projection.", ".out_proj.")] = tensor * scale if is_added else tensor
    return state


def with_patches_of(patch_size: int, clip: dict[str, Tensor]) -> dict[str, Tensor]:
    """A CLIP's state dict for pictures that have as many, but smaller patches."""
    name = "embeddings.patch_embedding.weight"
    return {**clip, name: _shrink(clip[name], patch_size)}


def _shrink(kernel: Tensor, size: int) -> Tensor:
    """A patch kernel [D, 3, P, P] -> [D, 3, size, size] that gives the same for a picture shrunk alike."""
    return functional.interpolate(kernel, size=(size, size), mode="area") * (kernel.shape[-1] / size) ** 2
