"""A forward pass over a conversation that records which experts each token is routed to."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from models.parts.llava_vision import PatchTower
from models.parts.sparse_decoders import SparseDecoder
from models.preprocessing import CropAndResize, PadAndResize
from models.routing_trace import Fit, LayerRouting, PatchGrid, RoutingTrace
from models.vision_language_model import VisionLanguageModel


@torch.inference_mode()
def trace_routing(model: VisionLanguageModel, ids: Sequence[int], images: Sequence[int | None]) -> RoutingTrace:
    """The routing of these token ids (with the bank's ids for images), computed without a KV cache.

    `images` says for every id which image it belongs to, or None. Only for models whose `info.has_experts`.
    """
    decoder = model.language_model
    assert isinstance(decoder, SparseDecoder)
    with decoder.record_routing() as found:
        decoder.model(input_ids=torch.tensor([list(ids)], device=model.device), use_cache=False)
    layers = []
    for layer, routing in sorted(found.items()):
        first, second = (tuple(choices) for choices in routing.experts.T.tolist())
        layers.append(LayerRouting(layer, routing.logits.shape[1], first, second))
    return RoutingTrace(tuple(layers), tuple(images), patch_grid(model))


def patch_grid(model: VisionLanguageModel) -> PatchGrid:
    """Which part of the picture each image token is for."""
    tower = model.vision_tower
    assert isinstance(tower, PatchTower)
    fit: Fit = "stretch"
    if isinstance(model.image_processor, PadAndResize | CropAndResize):
        fit = "pad" if isinstance(model.image_processor, PadAndResize) else "crop"
    return PatchGrid(tower.grid, tower.first_patch, fit)
