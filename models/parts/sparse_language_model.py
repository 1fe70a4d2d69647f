"""MoE-LLaVA's released language model tensors and config values -> a `Part`, for each of its four backbones."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from models.errors import CheckpointMismatch
from models.parts.sparse_decoders import (
    SparseMistralConfig,
    SparseMistralForCausalLM,
    SparsePhiConfig,
    SparsePhiForCausalLM,
    SparseQwen2Config,
    SparseQwen2ForCausalLM,
    SparseStableLmConfig,
    SparseStableLmForCausalLM,
)
from models.parts.sparse_moe import SparseLayers
from models.weights import Drop, Part, Rename, Tensors, rename

_COMMON = (
    Drop(r"rotary_emb\.inv_freq$", why="a buffer that is computed, not loaded"),
    Drop(r"^lm_head\.bias$", why="of the original Phi-2; these models are trained without it"),
    Rename(r"\.mlp\.deepspeed_moe\.gate\.wg\.", ".mlp.router."),
    Rename(r"\.mlp\.deepspeed_moe\.experts\.deepspeed_experts\.", ".mlp.experts."),
)
_PHI = (
    Rename(r"(\.experts\.\d+)\.fc1\.", r"\1.up_proj."),
    Rename(r"(\.experts\.\d+)\.fc2\.", r"\1.down_proj."),
)
_QWEN = (
    Rename(r"^transformer\.wte\.", "model.embed_tokens."),
    Rename(r"^transformer\.ln_f\.", "model.norm."),
    Rename(r"^transformer\.h\.", "model.layers."),
    Rename(r"\.ln_1\.", ".input_layernorm."),
    Rename(r"\.ln_2\.", ".post_attention_layernorm."),
    Rename(r"\.attn\.c_proj\.", ".self_attn.o_proj."),
    # y = c_proj(w1(x) * silu(w2(x))): the gate is the second one.
    Rename(r"(\.mlp\..*|\.mlp\.)w2\.", r"\1gate_proj."),
    Rename(r"(\.mlp\..*|\.mlp\.)w1\.", r"\1up_proj."),
    Rename(r"(\.mlp\..*|\.mlp\.)c_proj\.", r"\1down_proj."),
)
_LINEAR_EXPERTS = (Rename(r"\.mlp\.experts\.", ".mlp.linear_experts."),)

# Today's field names of what StableLM's and Qwen-1's own configurations call otherwise.
_STABLELM_FIELDS = {"norm_eps": "layer_norm_eps", "rope_pct": "partial_rotary_factor"}
_QWEN_FIELDS = {"layer_norm_epsilon": "rms_norm_eps", "rotary_emb_base": "rope_theta"}


@dataclass(frozen=True)
class _Backbone:
    model_class: type[PreTrainedModel]
    config_class: type[PreTrainedConfig]
    rules: tuple[Rename, ...] = ()


_BACKBONES = {
    "phi": _Backbone(SparsePhiForCausalLM, SparsePhiConfig, _PHI),
    "stablelm": _Backbone(SparseStableLmForCausalLM, SparseStableLmConfig),
    "qwen": _Backbone(SparseQwen2ForCausalLM, SparseQwen2Config, _QWEN),
    "mistral": _Backbone(SparseMistralForCausalLM, SparseMistralConfig),
}


def backbone_of(values: Mapping[str, Any], *, source: str) -> str:
    """`phi`, `stablelm`, `qwen` or `mistral`, from config.json's own name for it. Raises CheckpointMismatch."""
    named = f"{values.get('model_type', '')} {values.get('architectures', '')}".lower()
    for name in _BACKBONES:
        if name in named:
            return name
    raise CheckpointMismatch(
        f"{source}: its language model is {values.get('model_type')!r}; MoE-LLaVA has phi, stablelm, qwen and mistral."
    )


def sparse_language_model_part(
    tensors: Tensors, values: Mapping[str, Any], layers: SparseLayers, *, source: str
) -> Part:
    """The language model from its released tensors and config.json's values."""
    kind = backbone_of(values, source=source)
    backbone = _BACKBONES[kind]
    tensors = rename(tensors, (*_COMMON, *backbone.rules, *(() if layers.is_stacked else _LINEAR_EXPERTS)))
    if kind == "qwen":
        tensors = _split_qkv(tensors)
    config = _config(kind, values, tensors)
    config.sparse_layers = dataclasses.asdict(layers)
    return Part(
        name="language model",
        source=source,
        module_class=backbone.model_class,
        config=config,
        tensors=tensors,
        is_quantizable=True,
        hint="Do the folder's weights and its config.json (with its `moe` entry) belong together?",
        released_shapes=separate_experts,
    )


def _config(kind: str, values: Mapping[str, Any], tensors: Tensors) -> PreTrainedConfig:
    # The originals' own names, code and scaling entries would only confuse today's classes.
    unused = ("model_type", "architectures", "auto_map", "torch_dtype", "transformers_version", "moe")
    values = {key: value for key, value in values.items() if key not in unused}
    if values.get("rope_scaling", 0) is None:
        del values["rope_scaling"]
    renamed = {"stablelm": _STABLELM_FIELDS, "qwen": _QWEN_FIELDS}.get(kind, {})
    values = {renamed.get(key, key): value for key, value in values.items()}
    if kind == "stablelm":
        values["use_qkv_bias"] = "model.layers.0.self_attn.q_proj.bias" in tensors
    if kind == "qwen":
        values["intermediate_size"] //= 2  # it counts both halves of the gated layer
        values |= {"num_key_value_heads": values["num_attention_heads"], "hidden_act": "silu"}
        values["tie_word_embeddings"] = False
    if kind == "mistral":
        values["sliding_window"] = None  # 4096, which is more than the context these models are served with
    return _BACKBONES[kind].config_class.from_dict(values)


def _split_qkv(tensors: Tensors) -> Tensors:
    """Qwen-1's joint projection, all rows of q, then of k, then of v, as three tensors."""
    split: Tensors = {}
    for name, tensor in tensors.items():
        if ".attn.c_attn." in name:
            parts = zip("qkv", tensor.chunk(3), strict=True)
            split |= {name.replace(".attn.c_attn.", f".self_attn.{p}_proj."): part for p, part in parts}
        else:
            split[name] = tensor
    return split


def separate_experts(shapes: dict[str, torch.Size]) -> dict[str, torch.Size]:
    """Stacked expert parameters as the released files have them, one tensor per expert; the inverse of loading."""
    released: dict[str, torch.Size] = {}
    for name, shape in shapes.items():
        if (match := re.fullmatch(r"(.+\.mlp\.experts\.)(\w+?)(_bias)?", name)) is None:
            released[name] = shape
            continue
        prefix, projection, bias = match.groups()
        halves = ("gate_proj", "up_proj") if projection == "gate_up_proj" else (projection,)
        size = torch.Size((shape[1] // len(halves), *shape[2:]))
        suffix = "bias" if bias else "weight"
        released |= {f"{prefix}{n}.{half}.{suffix}": size for n in range(shape[0]) for half in halves}
    return released
