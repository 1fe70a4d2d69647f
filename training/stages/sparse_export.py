"""A MoE-LLaVA model -> the tensors of the released file format, by the released names.

The inverse of `models/parts/sparse_language_model.py`; gradients go through it as well as weights. Unlike
`retrained_folder.py` it needs no released folder to put the tensors back into.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor, nn

from models.parts.sparse_decoders import SparsePhiForCausalLM, SparseQwen2ForCausalLM
from models.tensors.weights import Rename, Tensors, rename
from training.stages.retrained_folder import unstack

_SPARSE = (
    Rename(r"\.mlp\.router\.weight$", ".mlp.deepspeed_moe.gate.wg.weight"),
    Rename(r"\.mlp\.experts\.", ".mlp.deepspeed_moe.experts.deepspeed_experts."),
)
_EXPERTS = r"(\.deepspeed_experts\.\d+)"
_PHI = (
    Rename(rf"{_EXPERTS}\.up_proj\.", r"\1.fc1."),
    Rename(rf"{_EXPERTS}\.down_proj\.", r"\1.fc2."),
)
_QWEN = (
    Rename(r"^model\.embed_tokens\.", "transformer.wte."),
    Rename(r"^model\.norm\.", "transformer.ln_f."),
    Rename(r"^model\.layers\.", "transformer.h."),
    Rename(r"\.input_layernorm\.", ".ln_1."),
    Rename(r"\.post_attention_layernorm\.", ".ln_2."),
    Rename(r"\.self_attn\.o_proj\.", ".attn.c_proj."),
    Rename(r"\.gate_proj\.", ".w2."),
    Rename(r"\.up_proj\.", ".w1."),
    Rename(r"\.down_proj\.", ".c_proj."),
)


class Assembled(Protocol):
    """A model's three parts, as `VisionLanguageModel` has them."""

    @property
    def vision_tower(self) -> nn.Module: ...
    @property
    def connector(self) -> nn.Module: ...
    @property
    def language_model(self) -> nn.Module: ...


def released_tensors(model: Assembled) -> Tensors:
    """Every weight of the model by its released name. The tower's unused last layers are not there, nor needed."""
    base = "transformer" if isinstance(model.language_model, SparseQwen2ForCausalLM) else "model"
    tower = {
        f"{base}.image_tower.image_tower.vision_model.{name.removeprefix('tower.')}": tensor
        for name, tensor in model.vision_tower.state_dict().items()
    }
    return (
        released_language_tensors(model.language_model, model.language_model.state_dict())
        | released_projector_tensors(model, model.connector.state_dict())
        | tower
    )


def released_projector_tensors(model: Assembled, tensors: Mapping[str, Tensor]) -> Tensors:
    """The connector's tensors (or what belongs to them, such as gradients) as `mm_projector.bin` has them."""
    base = "transformer" if isinstance(model.language_model, SparseQwen2ForCausalLM) else "model"
    rules = (Rename(r"^projection\.", f"{base}.mm_projector.image_spatial_proj."),)
    return rename(tensors, rules)


def released_language_tensors(decoder: nn.Module, tensors: Mapping[str, Tensor]) -> Tensors:
    """The language model's tensors (or what belongs to them, such as gradients) by the released names."""
    separate = rename(unstack(tensors, {}), _SPARSE)
    if isinstance(decoder, SparsePhiForCausalLM):
        return rename(separate, _PHI)
    if isinstance(decoder, SparseQwen2ForCausalLM):
        return _join_qkv(rename(separate, _QWEN))
    return separate


def _join_qkv(tensors: Tensors) -> Tensors:
    joined: Tensors = {}
    for name, tensor in tensors.items():
        if ".self_attn.q_proj." in name:
            parts = [tensor, *(tensors[name.replace("q_proj", f"{p}_proj")] for p in "kv")]
            joined[name.replace(".self_attn.q_proj.", ".attn.c_attn.")] = torch.cat(parts)
        elif ".self_attn." not in name:
            joined[name] = tensor
    return joined
