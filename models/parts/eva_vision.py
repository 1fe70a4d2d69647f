"""EVA-CLIP ViT-g, the vision tower of MiniGPT-4, MiniGPT-v2 and TinyGPT-V, as transformers' `Blip2VisionModel`.

The released `eva_vit_g.pth` holds 40 blocks; the originals build 39 and read the output of the last one built
(LAVIS `eva_vit.py`, `create_eva_vit_g`). `post_layernorm` is their `ln_vision`, whose eps differs from the blocks'.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isqrt
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import Blip2VisionConfig, Blip2VisionModel

from models.errors import CheckpointMismatch, ConfigError
from models.tensors.completeness import check_size
from models.tensors.module_config import module_config
from models.tensors.origins import Origin, joined, made_from, origin_of
from models.tensors.weights import Drop, Part, Rename, Tensors, first_layers, rename, renamed_from, replaced

LN_VISION_EPS = 1e-5  # torch's default, which the originals' LayerNorm subclass uses; the blocks have 1e-6

_RULES = (
    Drop(r"^(fc_)?norm\.|^head\.|^lm_head\.|mask_token|rel_pos_bias", why="of the full EVA-CLIP model; not used here"),
    Rename(r"^cls_token$", "embeddings.class_embedding"),
    Rename(r"^pos_embed$", "embeddings.position_embedding"),
    Rename(r"^patch_embed\.proj\.", "embeddings.patch_embedding."),
    Rename(r"^blocks\.(\d+)\.norm([12])\.", r"encoder.layers.\1.layer_norm\2."),
    Rename(r"^blocks\.(\d+)\.attn\.proj\.", r"blocks.\1.attn.projection."),
    Rename(r"^blocks\.(\d+)\.attn\.", r"encoder.layers.\1.self_attn."),
    Rename(r"^blocks\.(\d+)\.mlp\.", r"encoder.layers.\1.mlp."),
)

_NAME = "vision tower"
_HINT = "Is it eva_vit_g.pth, and does vision_config describe it?"
_MOST_PATCHES = 80  # a side; attention between the 41 million patches of a wrong size would take all memory


class EvaVisionTower(Blip2VisionModel):
    """`Blip2VisionModel` with the originals' eps in its last LayerNorm. [B, 3, S, S] -> [B, 1 + patches, width]."""

    def __init__(self, config: Blip2VisionConfig) -> None:
        super().__init__(config)
        self.post_layernorm.eps = LN_VISION_EPS

    @property
    def image_size(self) -> int:
        """Side of the square input in pixels."""
        return int(self.config.image_size)  # type: ignore[arg-type]  # always one number here

    def features(self, pixel_values: Tensor) -> Tensor:
        """All tokens, CLS first, after `ln_vision`. pixel_values [B, 3, S, S] -> [B, 1 + patches, width]."""
        return self(pixel_values=pixel_values.to(self.dtype)).last_hidden_state


def eva_vision_config(
    image_size: int, overrides: Mapping[str, Any] | None = None, *, where: str = "vision_config"
) -> Blip2VisionConfig:
    """ViT-g at this image size; `overrides` replace single fields (transformers' names). Raises ConfigError."""
    values: dict[str, Any] = {
        "hidden_size": 1408,
        "num_hidden_layers": 39,
        "num_attention_heads": 16,
        "intermediate_size": 6144,
        "patch_size": 14,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-6,
        "qkv_bias": True,
        "attention_dropout": 0.0,
        "image_size": image_size,
    }
    config = module_config(Blip2VisionConfig, values, overrides, where=where)
    if not 0 < int(config.patch_size) <= int(config.image_size):  # type: ignore[arg-type]  # single numbers here
        raise ConfigError(
            f"{where}: images of {config.image_size} px can't be cut into patches of {config.patch_size}."
        )
    if patch_grid(config) > _MOST_PATCHES:
        raise ConfigError(
            f"{where}: images of {config.image_size} px have {patch_grid(config)} patches a side; at most "
            f"{_MOST_PATCHES} are read (released towers have 16 or 32)."
        )
    return config


def patch_grid(config: Blip2VisionConfig) -> int:
    """Patches along one side of the image."""
    return int(config.image_size) // int(config.patch_size)  # type: ignore[arg-type]  # always single numbers here


def num_patches(config: Blip2VisionConfig) -> int:
    """Patches of one image, without CLS."""
    return patch_grid(config) ** 2


def eva_vision_part(
    released: Tensors,
    config: Blip2VisionConfig,
    *,
    source: str,
    ln_vision: Tensors | None,
    ln_source: str = "",
    trained: Tensors | None = None,
) -> Part:
    """The vision tower from the tensors of `eva_vit_g.pth`, or of a stage file in which it was `trained`.

    `ln_vision` {"weight", "bias"} comes from the BLIP-2 or MiniGPT file, which `ln_source` names; None means the
    identity, which is what the variants without a Q-Former were trained with. Raises CheckpointMismatch.
    """
    depth, width = config.num_hidden_layers, config.hidden_size
    tensors, own = (rename(first_layers(t, "blocks.", depth), _RULES) for t in (released, trained or {}))
    tensors = replaced(tensors, own, what=_NAME, prefix="visual_encoder.")
    absent: dict[str, str] = {}  # fused bias -> the half of it that no file has
    for layer in range(depth):
        prefix = f"encoder.layers.{layer}.self_attn."
        biases = {f"{part}_bias": tensors.pop(f"{prefix}{part}_bias", None) for part in "qv"}
        for name, bias in biases.items():
            if bias is None:
                absent[f"{prefix}qkv.bias"] = f"blocks.{layer}.attn.{name}"
            else:
                check_size(bias, (width,), owner=_NAME, default=Origin(source, name), hint=_HINT)
        q_bias, v_bias = biases.values()
        if q_bias is not None and v_bias is not None:
            tensors[f"{prefix}qkv.bias"] = fuse_qkv_bias(q_bias, v_bias)
    position = "embeddings.position_embedding"
    if position in tensors:
        tensors[position] = interpolate_position_embedding(
            tensors[position], patch_grid(config), width=width, source=source
        )
    if ln_vision is None:
        ln_vision = {"weight": torch.ones(width), "bias": torch.zeros(width)}
    tensors |= {f"post_layernorm.{name}": tensor for name, tensor in ln_vision.items()}

    def origin(name: str) -> Origin:
        if name.startswith("post_layernorm."):
            return Origin(ln_source, name.replace("post_layernorm.", "ln_vision."))
        return Origin(source, absent.get(name) or renamed_from(name, _RULES))

    return Part(
        name=_NAME,
        source=source,
        module_class=EvaVisionTower,
        config=config,
        tensors=tensors,
        hint=_HINT,
        released=origin,
    )


def fuse_qkv_bias(q_bias: Tensor, v_bias: Tensor) -> Tensor:
    """EVA's attention has no key bias: [q, 0, v], [3 * width]. Source: LAVIS eva_vit.py, `Attention.forward`."""
    return joined(torch.cat((q_bias, torch.zeros_like(q_bias), v_bias)), q_bias, v_bias)


def interpolate_position_embedding(embedding: Tensor, grid: int, *, width: int, source: str) -> Tensor:
    """Position embedding [1, 1 + g*g, width] of a square grid resized to [1, 1 + grid*grid, width]; CLS untouched.

    Bicubic in fp32, align_corners False, no antialias. Source: LAVIS eva_vit.py, `interpolate_pos_embed`.
    Raises CheckpointMismatch for a table that is no such grid.
    """
    found = Origin(source, "pos_embed")
    num_patches = embedding.shape[1] - 1 if embedding.dim() == 3 else grid**2
    file_grid = isqrt(max(num_patches, 0))
    if num_patches < 1 or file_grid**2 != num_patches:
        raise CheckpointMismatch(
            f"{origin_of(embedding, found)} has {num_patches} patches, which is not a square grid. {_HINT}"
        )
    check_size(embedding, (1, 1 + num_patches, width), owner=_NAME, default=found, hint=_HINT)
    if file_grid == grid:
        return embedding
    cls, patches = embedding[:, :1].float(), embedding[:, 1:].float()
    square = patches.reshape(1, file_grid, file_grid, width).permute(0, 3, 1, 2)
    resized = functional.interpolate(square, size=(grid, grid), mode="bicubic", align_corners=False)
    (table,) = made_from(embedding, torch.cat((cls, resized.permute(0, 2, 3, 1).flatten(1, 2)), dim=1))
    return table
