"""Language models of the LLaVA line, whose kind is read from tensors and config values, never from a folder's name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from transformers import (
    GemmaConfig,
    GemmaForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedConfig,
)

from models.parts.sparse_moe import LinearExperts
from models.tensors.origins import Origin
from models.tensors.weights import Drop, Lora, Part, Rename, Tensors, rename, renamed_from

_BUFFERS = Drop(r"rotary_emb\.inv_freq$", why="a buffer that is computed, not loaded")
_TIED_HEAD = Drop(r"^lm_head\.", why="the same tensor as the embedding, written twice by DeepSpeed")

# Mixtral's names -> those of `LinearExperts`, which transformers' own stacking does not touch.
_LINEAR_EXPERTS = (
    Rename(r"\.block_sparse_moe\.", ".mlp."),
    Rename(r"\.w1\.", ".gate_proj."),
    Rename(r"\.w3\.", ".up_proj."),
    Rename(r"\.w2\.", ".down_proj."),
)

Shapes = dict[str, torch.Size]


def language_model_kind(tensors: Mapping[str, Any], values: Mapping[str, Any]) -> str:
    """`mixtral`, `gemma` or `llama`. Released configs may lack `model_type`, and folders get renamed."""
    if any(".block_sparse_moe." in name for name in tensors):
        return "mixtral"
    named = f"{values.get('model_type', '')} {values.get('architectures', '')}".lower()
    # Where it does not say so itself, Gemma is known by its wide heads and its large vocabulary.
    is_gemma = "gemma" in named or values.get("head_dim") == 256 or values.get("vocab_size") == 256000
    return "gemma" if is_gemma else "llama"


class SeparateMixtral(MixtralForCausalLM):
    """Mixtral with its experts as linear layers, for bitsandbytes: it leaves stacked ones in full size, silently."""

    def __init__(self, config: MixtralConfig) -> None:
        super().__init__(config)
        for layer in self.model.layers:
            layer.mlp.experts = LinearExperts(
                num_experts=config.num_local_experts,
                hidden=config.hidden_size,
                inner=config.intermediate_size,
                activation=config.hidden_act,
                gated=True,
            )


def causal_lm_part(
    tensors: Tensors, values: dict[str, Any], *, source: str, is_quantized: bool = False, lora: Lora | None = None
) -> Part:
    """A Llama, Gemma or Mixtral from its tensors and config values, with an adapter's LoRA to be merged into it."""
    kind = language_model_kind(tensors, values)
    # The originals' own names for the model would only make transformers warn; its default scaling is none.
    values = {key: value for key, value in values.items() if key not in ("model_type", "architectures")}
    if values.get("rope_scaling", 0) is None:
        del values["rope_scaling"]
    tensors = rename(tensors, (_BUFFERS,))
    config: PreTrainedConfig
    released_shapes = None
    rules: tuple[Rename, ...] = ()
    module_class: type[torch.nn.Module]
    if kind == "mixtral":
        config, module_class = MixtralConfig.from_dict(values), MixtralForCausalLM
        released_shapes = released_mixtral_shapes
        if is_quantized:
            module_class, released_shapes = SeparateMixtral, None
            rules = _LINEAR_EXPERTS
            tensors = rename(tensors, rules)
    elif kind == "gemma":
        config, module_class = gemma_config(values), GemmaForCausalLM
        if config.tie_word_embeddings:
            tensors = rename(tensors, (_TIED_HEAD,))
    else:
        config, module_class = LlamaConfig.from_dict(values), LlamaForCausalLM
    return Part(
        name="language model",
        source=source,
        module_class=module_class,
        config=config,
        tensors=tensors,
        lora=lora and Lora(pairs=rename(lora.pairs, rules), alpha=lora.alpha),
        is_quantizable=True,
        hint="Do the folder's weights and its config.json belong together?",
        released_shapes=released_shapes,
        released=lambda name: Origin(source, renamed_from(name, rules)),
    )


def gemma_config(values: dict[str, Any]) -> GemmaConfig:
    """A Gemma config whose `gelu` stays the exact GELU, as in transformers 4.38, which MGM-2B was made for."""
    is_exact = values.get("hidden_act") == "gelu"
    config = GemmaConfig.from_dict(values | ({"hidden_act": "gelu_pytorch_tanh"} if is_exact else {}))
    if is_exact:
        config.hidden_act = "gelu"  # not earlier: today's class rewrites it to the tanh approximation
    return config


def released_mixtral_shapes(shapes: Shapes) -> Shapes:
    """Mixtral's stacked expert parameters as the released files have them: w1 (gate), w3 (up), w2 (down) each."""
    released: Shapes = {}
    for name, shape in shapes.items():
        name = name.replace(".mlp.", ".block_sparse_moe.")
        if name.endswith("experts.gate_up_proj"):
            experts, width, inner = shape
            prefix = name.removesuffix("gate_up_proj")
            released |= {
                f"{prefix}{n}.{w}.weight": torch.Size((width // 2, inner)) for n in range(experts) for w in ("w1", "w3")
            }
        elif name.endswith("experts.down_proj"):
            experts, *rest = shape
            prefix = name.removesuffix("down_proj")
            released |= {f"{prefix}{n}.w2.weight": torch.Size(rest) for n in range(experts)}
        else:
            released[name] = shape
    return released
