"""TinyGPT-V's Phi-2: transformers' Phi with one more norm, and its weights from any of the three published layouts.

H heads, D head width, E hidden width. TinyGPT-V (arXiv:2312.16862) adds q/k LayerNorms (which transformers has behind
`qk_layernorm`) and an RMSNorm on the attention branch; source: its `modeling_phi.py`, a patched transformers 4.36.2.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PhiConfig, PhiForCausalLM
from transformers.models.phi.modeling_phi import PhiDecoderLayer

from models.errors import CheckpointMismatch
from models.tensors.completeness import check_size
from models.tensors.deferred import deferred
from models.tensors.origins import Origin, made_from
from models.tensors.weights import Rename, Tensors, first_names, rename, renamed_from

_HINT = "Is it Phi-2, and do its weights and its config.json belong together?"
_NUMBERED = re.compile(r"layers\.(\d+)\.(.+)")
POST_NORM_EPS = 1e-6  # the attention branch's RMSNorm; all other norms have the config's eps

# Microsoft's first layouts: `transformer.h.N.…` and, older still, one flat list `layers.N.…` with embedding and head.
_MICROSOFT_RULES = (
    Rename(r"^transformer\.embd\.wte\.", "model.embed_tokens."),
    Rename(r"^lm_head\.ln\.", "model.final_layernorm."),
    Rename(r"^lm_head\.linear\.", "lm_head."),
    Rename(r"^transformer\.h\.(\d+)\.", r"model.layers.\1."),
    Rename(r"^(model\.layers\.\d+)\.ln\.", r"\1.input_layernorm."),
    Rename(r"^(model\.layers\.\d+)\.mixer\.out_proj\.", r"\1.self_attn.dense."),
    Rename(r"^(model\.layers\.\d+)\.mixer\.Wqkv\.", r"\1.self_attn.Wqkv."),
)
_ROPE = ("rope_theta", "rope_parameters", "rope_scaling")
_MICROSOFT_CONFIG = {
    "n_embd": "hidden_size",
    "n_head": "num_attention_heads",
    "n_layer": "num_hidden_layers",
    "n_inner": "intermediate_size",
    "n_positions": "max_position_embeddings",
    "vocab_size": "vocab_size",
    "layer_norm_epsilon": "layer_norm_eps",
    "activation_function": "hidden_act",
}


class PostNormPhiLayer(PhiDecoderLayer):
    """A Phi block whose attention branch is normalised before it joins the residual stream."""

    def __init__(self, config: PhiConfig, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        self.post_layernorm = nn.RMSNorm(config.hidden_size, eps=POST_NORM_EPS)

    def forward(self, hidden_states: Tensor, **kwargs: Any) -> Tensor:  # type: ignore[override]  # all go to attention
        """[B, L, E] -> [B, L, E]; keyword arguments go on to the attention."""
        normed = self.input_layernorm(hidden_states)
        attended, _ = self.self_attn(hidden_states=normed, **kwargs)
        attended = self.resid_dropout(self.post_layernorm(attended))
        return attended + self.resid_dropout(self.mlp(normed)) + hidden_states


class PostNormPhiForCausalLM(PhiForCausalLM):
    """Phi-2 with TinyGPT-V's norms; its config must say `qk_layernorm`."""

    def __init__(self, config: PhiConfig) -> None:
        super().__init__(config)
        layers = [PostNormPhiLayer(config, index) for index in range(config.num_hidden_layers)]
        self.model.layers = nn.ModuleList(layers)
        self.post_init()


def phi_config(values: dict[str, Any]) -> PhiConfig:
    """The values of a Phi-2 folder's config.json, today's or Microsoft's first, as a config with q/k norms."""
    if "n_embd" in values:
        renamed = {new: values[old] for old, new in _MICROSOFT_CONFIG.items() if values.get(old) is not None}
        renamed.setdefault("intermediate_size", 4 * values["n_embd"])
        head = values["n_embd"] // values["n_head"]
        rope = {key: values[key] for key in _ROPE if values.get(key) is not None}
        values = renamed | {"partial_rotary_factor": values["rotary_dim"] / head, "rope_theta": 10000.0} | rope
    return PhiConfig.from_dict({**values, "model_type": "phi", "qk_layernorm": True, "architectures": None})


def split_qkv_layout(tensors: Tensors, config: PhiConfig, *, source: str) -> Tensors:
    """Phi-2's tensors in today's names with separate q, k, v, from whichever layout they are in.

    The layout is read from the tensors: fused `query_key_value` rows are interleaved per head (transformers 4.36),
    `Wqkv` rows are all q, all k, all v (Microsoft). Raises CheckpointMismatch for anything else.
    """
    if any(_NUMBERED.match(name) for name in tensors):
        tensors = _number_layers(tensors)
    tensors = rename(tensors, _MICROSOFT_RULES)
    if not any("layers.0." in name for name in tensors):
        raise CheckpointMismatch(f"{source} holds no Phi-2 ({first_names(tensors)}); use a microsoft/phi-2 folder.")
    split: Tensors = {}
    for name, tensor in tensors.items():
        if fused := re.search(r"query_key_value|Wqkv", name):
            width = int(config.hidden_size)
            shape = (3 * width, width) if name.endswith("weight") else (3 * width,)
            check_size(tensor, shape, owner="language model", default=Origin(source, name), hint=_HINT)
            is_interleaved = fused[0] == "query_key_value"
            parts = _deferred_rows(tensor, config.num_attention_heads) if is_interleaved else tensor.chunk(3)
            names = (name.replace(fused[0], f"{part}_proj") for part in "qkv")
            split |= dict(zip(names, made_from(tensor, *parts), strict=True))
        else:
            split[name] = tensor
    return split


def released_in_phi(name: str, tensors: Collection[str], config: PhiConfig) -> str:
    """One of today's names as a Phi-2 folder has it that holds these `tensors`, in whichever layout."""
    is_microsoft = any(".mixer." in other for other in tensors)
    is_fused = is_microsoft or any("query_key_value" in other for other in tensors)
    if is_fused:
        name = re.sub(r"\.[qkv]_proj\.", ".Wqkv." if is_microsoft else ".query_key_value.", name)
    if not is_microsoft:
        return name
    name = renamed_from(name, _MICROSOFT_RULES)
    if not any(_NUMBERED.match(other) for other in tensors):
        return name
    name = re.sub(r"^transformer\.h\.(\d+)\.", lambda match: f"layers.{int(match[1]) + 1}.", name)
    name = name.replace("transformer.embd.", "layers.0.")
    return name.replace("lm_head.", f"layers.{config.num_hidden_layers + 1}.")


def split_interleaved(tensor: Tensor, num_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """[H * 3 * D, …] with q, k, v rows of each head in turn -> three of [H * D, …]."""
    q, k, v = (interleaved_rows(tensor, num_heads=num_heads, index=index) for index in range(3))
    return q, k, v


def _deferred_rows(tensor: Tensor, num_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """`split_interleaved`, of which each is copied out of the file when it is needed."""
    q, k, v = (deferred(partial(interleaved_rows, num_heads=num_heads, index=index), tensor) for index in range(3))
    return q, k, v


def interleaved_rows(tensor: Tensor, *, num_heads: int, index: int) -> Tensor:
    """One of the three of `split_interleaved`."""
    return tensor.unflatten(0, (num_heads, 3, -1))[:, index].flatten(0, 1)


def join_interleaved(q: Tensor, k: Tensor, v: Tensor, num_heads: int) -> Tensor:
    """The inverse of `split_interleaved`."""
    return torch.stack([part.unflatten(0, (num_heads, -1)) for part in (q, k, v)], dim=1).flatten(0, 2)


def _number_layers(tensors: Tensors) -> Tensors:
    """`layers.0` is the embedding, 1…L the blocks, L+1 final norm and head (phi-msft's first form)."""
    last = max(int(match[1]) for name in tensors if (match := _NUMBERED.match(name)))
    renamed: Tensors = {}
    for name, tensor in tensors.items():
        match = _NUMBERED.match(name)
        index, rest = (-1, name) if match is None else (int(match[1]), match[2])
        if index < 0:
            renamed[name] = tensor
        elif index == 0:
            renamed[f"transformer.embd.{rest}"] = tensor
        elif index == last:
            renamed[f"lm_head.{rest}"] = tensor
        else:
            renamed[f"transformer.h.{index - 1}.{rest}"] = tensor
    return renamed
