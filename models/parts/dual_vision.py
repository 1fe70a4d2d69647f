"""Mini-Gemini's two vision towers over one picture: CLIP at low and ConvNeXt at high resolution.

B pictures, G grid (1, or 2 for HD), n CLIP patches of a view, V = 1 view (HD: 4 crops and the whole), C CLIP width,
A channels of all ConvNeXt stages together. Source: MGM, `clip_encoder.py`, `openclip_encoder.py`, `mgm_arch.py`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from statistics import mode
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import ConvNextConfig, ConvNextModel

from models.parts.llava_vision import CutClip
from models.tensors.weights import Drop, Rename, Tensors

CONVNEXT_LAYERS = (
    Rename(r"^visual\.trunk\.stem\.0\.", "embeddings.patch_embeddings."),
    Rename(r"^visual\.trunk\.stem\.1\.", "embeddings.layernorm."),
    Rename(r"^visual\.trunk\.stages\.", "encoder.stages."),
    Rename(r"\.downsample\.", ".downsampling_layer."),
    Rename(r"\.blocks\.", ".layers."),
    Rename(r"\.conv_dw\.", ".dwconv."),
    Rename(r"(layers\.\d+)\.norm\.", r"\1.layernorm."),
    Rename(r"\.mlp\.fc([12])\.", r".pwconv\1."),
    Rename(r"\.gamma$", ".layer_scale_parameter"),
)
CONVNEXT_RULES = (
    Drop(r"^(?!visual\.trunk\.(stem|stages)|vision_(stem|stages))", why="OpenCLIP's text half and heads"),
    Rename(r"^vision_(stem|stages)\.", r"visual.trunk.\1."),  # as a whole model's own files call them
    *CONVNEXT_LAYERS,
)


class ClipPatches(CutClip):
    """CLIP's patch features, one block and the last norm left out: [B, 3, S, S] -> [B, n, C], CLS dropped."""

    def patches(self, pixel_values: Tensor) -> Tensor:
        """See the class."""
        return self(pixel_values=pixel_values.to(self.dtype)).last_hidden_state[:, 1:]


class ConvNextStages(ConvNextModel):
    """All four stages of a ConvNeXt, brought to the size of the first and joined: [B, 3, S, S] -> [B, A, S/4, S/4]."""

    def __init__(self, config: ConvNextConfig) -> None:
        super().__init__(config)
        self.layernorm = nn.Identity()  # type: ignore[assignment]  # only its pooled output would need one

    def stages(self, pixel_values: Tensor) -> Tensor:
        """See the class. Resized bilinearly in fp32, as the original does."""
        states = self(pixel_values=pixel_values.to(self.dtype), output_hidden_states=True).hidden_states[1:]
        size = states[0].shape[-2:]
        resized = [
            functional.interpolate(state.float(), size=size, mode="bilinear", align_corners=False) for state in states
        ]
        return torch.cat([state.to(states[0].dtype) for state in resized], dim=1)


@dataclass(frozen=True)
class DualFeatures:
    """What the towers see: `low` [B, V, n, C] (HD: crops in raster order, then the whole), `high` [B, A, H, W]."""

    low: Tensor
    high: Tensor


class DualVisionTower(nn.Module):
    """Both towers. The low-resolution input is made from the high-resolution one, as in training."""

    def __init__(self, *, low: ClipPatches, high: ConvNextStages, grid: int, has_global: bool) -> None:
        super().__init__()
        self.low = low
        self.high = high
        self.grid = grid
        self.has_global = has_global

    @property
    def num_patches(self) -> int:
        """n: CLIP patches of one view."""
        config = self.low.config
        return (int(config.image_size) // int(config.patch_size)) ** 2  # type: ignore[arg-type]  # single numbers

    @property
    def num_views(self) -> int:
        """V: how many low-resolution views one picture has."""
        return self.grid**2 + self.has_global

    def low_views(self, pixel_values: Tensor) -> Tensor:
        """[B, 3, S, S] float32 -> [B, V, 3, s, s]: bilinear without antialiasing, cut into crops for HD."""
        side = int(self.low.config.image_size)  # type: ignore[arg-type]  # one number in every CLIP release
        full = shrink(pixel_values.float(), side * self.grid)
        if self.grid == 1:
            return full.unsqueeze(1)
        crops = full.unflatten(3, (self.grid, side)).unflatten(2, (self.grid, side))  # [B, 3, G, s, G, s]
        views = crops.permute(0, 2, 4, 1, 3, 5).flatten(1, 2)
        return torch.cat((views, shrink(full, side).unsqueeze(1)), dim=1) if self.has_global else views

    def features(self, pixel_values: Tensor) -> DualFeatures:
        """Pixel values [B, 3, S, S] -> what the connector takes."""
        views = self.low_views(pixel_values)
        low = self.low.patches(views.flatten(0, 1)).unflatten(0, views.shape[:2])
        return DualFeatures(low, self.high.stages(pixel_values))


def shrink(images: Tensor, side: int) -> Tensor:
    """[B, C, H, W] -> [B, C, side, side], bilinear in fp32, align_corners False, no antialiasing."""
    resized = functional.interpolate(images.float(), size=(side, side), mode="bilinear", align_corners=False)
    return resized.to(images.dtype)


def convnext_sizes(tensors: Tensors) -> dict[str, Any]:
    """Widths and depths of the stages, which no config of these files says in a usable form."""
    depths: dict[int, int] = {}
    widths: dict[int, list[int]] = {}
    for name, tensor in tensors.items():
        if match := re.match(r"encoder\.stages\.(\d+)\.layers\.(\d+)\.(dwconv|layernorm|layer_scale)", name):
            stage, layer = int(match[1]), int(match[2])
            depths[stage] = max(depths.get(stage, 0), layer + 1)
            widths.setdefault(stage, []).extend(tensor.shape[:1])
    if not depths or sorted(depths) != list(range(len(depths))):
        return {}
    # What most of a stage's tensors say: a single wrong one is found by its size then.
    sizes = [mode(widths[stage] or [0]) for stage in sorted(depths)]
    return {"hidden_sizes": sizes, "depths": [depths[n] for n in sorted(depths)], "num_stages": len(depths)}
