"""The image path of LLaVA: the patches of one CLIP or SigLIP tower, and a projector of two layers.

B pictures, n patches of a picture, V tower width, H language model width. Source: LLaVA, `clip_encoder.py`,
`multimodal_projector/builder.py`, and their copies in MoE-LLaVA.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel, SiglipVisionConfig, SiglipVisionModel

from models.errors import CheckpointMismatch
from models.tensors.module_config import module_config
from models.tensors.origins import Origin, origin_of
from models.tensors.weights import Drop, Part, Rename, Tensors, first_layers, rename

CLIP_L_336 = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
}
SIGLIP_SO400M_384 = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "image_size": 384,
    "patch_size": 14,
}
_TOWER_RULES = (
    Drop(r"^(text_model|text_projection|visual_projection|logit_|vision_model\.head\.)", why="the text half, pooling"),
    Drop(r"position_ids$", why="a buffer that is computed, not loaded"),
    Drop(r"post_layernorm\.", why="behind the layer whose output is used"),
    Rename(r"^vision_model\.", ""),
)


class PatchTower(nn.Module):
    """What the connector is given: the output of an inner layer, without its first vector where that is not wanted.

    The first vector is CLIP's CLS. SigLIP has none, and the original drops its top-left patch all the same; the
    released models are trained that way.
    """

    def __init__(self, tower: CLIPVisionModel | SiglipVisionModel, *, drops_first: bool) -> None:
        super().__init__()
        self.tower = tower
        self.drops_first = drops_first

    @property
    def grid(self) -> int:
        """Patches along one side of a picture."""
        config = self.tower.config
        return int(config.image_size) // int(config.patch_size)  # type: ignore[arg-type]  # single numbers here

    @property
    def first_patch(self) -> int:
        """The patch (in raster order) of the first token; -1 where CLS comes first."""
        return int(self.drops_first) - int(isinstance(self.tower, CLIPVisionModel))

    @property
    def num_tokens(self) -> int:
        """n."""
        return self.grid**2 - self.first_patch

    def features(self, pixel_values: Tensor) -> Tensor:
        """[B, 3, S, S] -> [B, n, V]."""
        states = self.tower(pixel_values=pixel_values.to(self.tower.dtype)).last_hidden_state
        return states[:, 1:] if self.drops_first else states


class CutClip(CLIPVisionModel):
    """CLIP without its last norm; its configuration leaves out the unused layers."""

    def __init__(self, config: CLIPVisionConfig) -> None:
        super().__init__(config)
        self.post_layernorm = nn.Identity()  # type: ignore[assignment]


class CutSiglip(SiglipVisionModel):
    """SigLIP without its last norm and its pooling head; its configuration leaves out the unused layers."""

    def __init__(self, config: SiglipVisionConfig) -> None:
        config.vision_use_head = False
        super().__init__(config)
        self.post_layernorm = nn.Identity()  # type: ignore[assignment]


class MlpProjector(nn.Module):
    """Two linear layers with an exact GELU between them: [B, n, V] -> [B, n, H]."""

    def __init__(self, *, vision_width: int, text_width: int) -> None:
        super().__init__()
        first, second = nn.Linear(vision_width, text_width), nn.Linear(text_width, text_width)
        self.projection = nn.Sequential(first, nn.GELU(), second)

    def prepare(self, features: Tensor) -> Tensor:
        """The input of `projection`: the features as they are."""
        return features

    def forward(self, features: Tensor) -> Tensor:
        """See the class."""
        return self.projection(features)


def tower_part(
    tensors: Tensors,
    *,
    is_siglip: bool,
    layer: int,
    values: Mapping[str, Any],
    source: str,
    overrides: Mapping[str, Any] | None = None,
    where: str = "vision_config",
) -> Part:
    """A tower cut behind the hidden state number `layer` (-2: without the last block), from its released tensors.

    `values` are those of its config.json; `overrides` are a YAML's, which `where` names.
    """
    defaults = SIGLIP_SO400M_384 if is_siglip else CLIP_L_336
    values = {**defaults, **values}
    config: SiglipVisionConfig | CLIPVisionConfig
    if is_siglip:
        config = module_config(SiglipVisionConfig, values, overrides, where=where)
    else:
        config = module_config(CLIPVisionConfig, values, overrides, where=where)
    num_layers = config.num_hidden_layers
    kept = layer if layer >= 0 else num_layers + 1 + layer
    if not 0 < kept <= num_layers:
        raise CheckpointMismatch(f"{source}: it has {num_layers} layers, but mm_vision_select_layer is {layer}.")
    config.num_hidden_layers = kept
    # A file may hold the tower alone or as a part of something larger, which names then begin with.
    inner = "vision_model." if any(name.startswith("vision_model.") for name in tensors) else ""
    of_layers = (origin_of(t, Origin(source, n)).name for n, t in tensors.items() if n.startswith(f"{inner}encoder."))
    prefix = next(of_layers, f"{inner}encoder.").partition(f"{inner}encoder.")[0] + inner
    return Part(
        name="vision tower",
        source=source,
        module_class=CutSiglip if is_siglip else CutClip,
        config=config,
        tensors=rename(first_layers(tensors, "encoder.layers.", kept), _TOWER_RULES),
        hint=f"Is it {'SigLIP so400m/14 at 384' if is_siglip else 'CLIP ViT-L/14 at 336'} px?",
        released=lambda name: Origin(source, prefix + name),
    )
