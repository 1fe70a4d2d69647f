"""MoE-LLaVA's released language model tensors and config values -> a `Part`, for each of its four backbones."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
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
from models.tensors.completeness import check_size
from models.tensors.origins import Origin, made_from
from models.tensors.weights import Drop, Lora, Part, Rename, Tensors, rename, renamed_from

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
_HINT = "Do the folder's weights and its config.json (with its `moe` entry) belong together?"
_DROPS = (
    "Its experts drop tokens when too many of a step choose the same one, and answers would depend on who else is "
    "served: one question is answered at a time, and prompts are read whole."
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
    tensors: Tensors, values: Mapping[str, Any], layers: SparseLayers, *, source: str, lora: Lora | None = None
) -> Part:
    """The language model from its released tensors and config.json's values, with an adapter's LoRA to be merged."""
    kind = backbone_of(values, source=source)
    backbone = _BACKBONES[kind]
    rules = (*_COMMON, *backbone.rules, *(() if layers.is_stacked else _LINEAR_EXPERTS))
    tensors = rename(tensors, rules)
    if kind == "qwen":
        tensors = _split_qkv(tensors, values["hidden_size"], source=source)
    config = _config(kind, values, tensors)
    config.sparse_layers = dataclasses.asdict(layers)

    def origin(name: str) -> Origin:
        if kind == "qwen":
            name = re.sub(r"\.self_attn\.[qkv]_proj\.", ".attn.c_attn.", name)
        return Origin(source, renamed_from(name, rules))

    return Part(
        name="language model",
        source=source,
        module_class=backbone.model_class,
        config=config,
        tensors=tensors,
        lora=lora and Lora(pairs=_split_pairs(rename(lora.pairs, rules)), alpha=lora.alpha),
        is_quantizable=True,
        hint=_HINT,
        released_shapes=released_expert_shapes,
        released=origin,
        note=_DROPS if layers.drops_tokens else "",
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
        values["use_qkv_bias"] = any(name.endswith("_proj.bias") for name in tensors)
    if kind == "qwen":
        values["intermediate_size"] //= 2  # it counts both halves of the gated layer
        values |= {"num_key_value_heads": values["num_attention_heads"], "hidden_act": "silu"}
        values["tie_word_embeddings"] = False
    if kind == "mistral":
        values["sliding_window"] = None  # 4096, which is more than the context these models are served with
    return _BACKBONES[kind].config_class.from_dict(values)


def _split_qkv(tensors: Tensors, width: int, *, source: str) -> Tensors:
    """Qwen-1's joint projection, all rows of q, then of k, then of v, as three tensors. Raises CheckpointMismatch."""
    split: Tensors = {}
    for name, tensor in tensors.items():
        if ".attn.c_attn." in name:
            shape = (3 * width, width) if name.endswith("weight") else (3 * width,)
            check_size(tensor, shape, owner="language model", default=Origin(source, name), hint=_HINT)
            names = (name.replace(".attn.c_attn.", f".self_attn.{part}_proj.") for part in "qkv")
            split |= dict(zip(names, made_from(tensor, *tensor.chunk(3)), strict=True))
        else:
            split[name] = tensor
    return split


def _split_pairs(pairs: Mapping[str, tuple[Tensor, Tensor]]) -> dict[str, tuple[Tensor, Tensor]]:
    """LoRA pairs with those of Qwen-1's joint projection as three that share A, their B split as the weight is."""
    split: dict[str, tuple[Tensor, Tensor]] = {}
    for name, (lora_a, lora_b) in pairs.items():
        if ".attn.c_attn." in name:
            names = (name.replace(".attn.c_attn.", f".self_attn.{part}_proj.") for part in "qkv")
            split |= {n: (lora_a, b) for n, b in zip(names, made_from(lora_b, *lora_b.chunk(3)), strict=True)}
        else:
            split[name] = (lora_a, lora_b)
    return split


def released_expert_shapes(shapes: dict[str, torch.Size]) -> dict[str, torch.Size]:
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
