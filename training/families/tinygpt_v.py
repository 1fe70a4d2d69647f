"""Training of TinyGPT-V: both projections, the norms' weights and LoRA on Phi-2's attention, in all four stages.

Source: TinyGPT-V, `train_configs/tinygptv_stage*.yaml`. The paper has no LoRA in stage 1, the published code has it;
`1-without-lora` is the paper's stage 1.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from models.families.tinygpt_v import Config
from models.family_config import FamilyConfig
from models.files.released import ReleasedFiles
from models.parts.connectors import qformer_config
from models.parts.phi import join_interleaved, phi_config, split_qkv_layout
from training.data.prompts import minigpt_prompts
from training.recipe import Recipe
from training.stages.stage_files import (
    config_without_checkpoint,
    fresh_linear,
    fresh_lora,
    save_checkpoint,
    write_stage,
)
from training.stages.stage_model import Stage, StateDict

INNER_WIDTH = 4096  # between the two projections: MiniGPT-4's width for Vicuna 7B

_LLM_PREFIX = "llama_model.base_model.model."
_LEARNS = (r"^connector\.projection\.", r"^language_model\..*norm\.weight$")

STAGES = {
    "1": Stage(learns=_LEARNS, lora=True),
    "1-without-lora": Stage(learns=_LEARNS),
    "2": Stage(learns=_LEARNS, lora=True),
    "3": Stage(learns=_LEARNS, lora=True),
    "4": Stage(learns=_LEARNS, lora=True),
}
PROMPTS = minigpt_prompts("<|endoftext|>")


def starting_values(recipe: Recipe, folder: Path) -> dict[str, Any]:
    """New projections, norms and adapters, if the recipe names no checkpoint; Phi-2's own norms as they are."""
    if recipe.model.get("checkpoint"):
        return {}
    config = cast(Config, config_without_checkpoint(recipe))
    files = ReleasedFiles(config)
    phi = phi_config(files.config_values("language_model"))
    width, head = phi.hidden_size, phi.hidden_size // phi.num_attention_heads
    vision_width = config.tower_config.hidden_size
    queries = qformer_config(vision_width, config.qformer_config).hidden_size
    tensors: dict[str, Tensor] = {}
    for number, (name, inputs, outputs) in enumerate(
        (("llama_proj", queries, INNER_WIDTH), ("llama_proj2", INNER_WIDTH, width))
    ):
        weight, bias = fresh_linear(inputs, outputs, recipe.seed + number)
        tensors |= {f"{name}.weight": weight, f"{name}.bias": bias}
    base = split_qkv_layout(files.tensors("language_model"), phi, source=files.source("language_model"))
    tensors |= {_LLM_PREFIX + name: tensor for name, tensor in base.items() if name.endswith("layernorm.weight")}
    for layer in range(phi.num_hidden_layers):
        block = f"{_LLM_PREFIX}model.layers.{layer}."
        tensors |= {f"{block}self_attn.{norm}_layernorm.weight": torch.ones(head) for norm in "qk"}
        tensors[f"{block}post_layernorm.weight"] = torch.ones(width)
        if STAGES[recipe.stage].lora:
            for number, (name, outputs) in enumerate((("query_key_value", 3 * width), ("dense", width))):
                lora_a, lora_b = fresh_lora(width, outputs, recipe.lora.rank, recipe.seed + 2 + 2 * layer + number)
                prefix = f"{block}self_attn.{name}"
                tensors |= {f"{prefix}.lora_A.weight": lora_a, f"{prefix}.lora_B.weight": lora_b}
    checkpoint = save_checkpoint(as_wrapped(recipe, tensors), folder / "start.pth")
    return {"checkpoint": str(checkpoint), "lora_alpha": recipe.lora.alpha}


def as_wrapped(recipe: Recipe, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names as peft's wrapper makes them, or, for a stage without LoRA, as they are without it."""
    if STAGES[recipe.stage].lora:
        return tensors
    return {name.replace("base_model.model.", ""): tensor for name, tensor in tensors.items()}


def released_name(name: str) -> str:
    """`llama_proj.*`, `llama_proj2.*`, and Phi-2's names as peft 0.2 called them."""
    name = name.replace("connector.projection.0.", "llama_proj.").replace("connector.projection.1.", "llama_proj2.")
    name = name.replace(".default.", ".")
    return name.replace("language_model.", _LLM_PREFIX, 1) if name.startswith("language_model.") else name


def export(recipe: Recipe, config: FamilyConfig, files: ReleasedFiles, state: StateDict, folder: Path) -> Path:
    """`checkpoint.pth` as the released stage files, and its eval config; LoRA of q, k, v is one fused pair again."""
    heads = phi_config(files.config_values("language_model")).num_attention_heads
    released: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if ".self_attn.q_proj.lora_B" in name:
            q, k, v = (state[name.replace("q_proj", f"{part}_proj")] for part in "qkv")
            released[released_name(name).replace("q_proj", "query_key_value")] = join_interleaved(q, k, v, heads)
        elif ".self_attn.q_proj.lora_A" in name:  # q, k and v share it
            released[released_name(name).replace("q_proj", "query_key_value")] = tensor
        elif not any(f".self_attn.{part}_proj.lora_" in name for part in "kv"):
            released[released_name(name)] = tensor
    return write_stage(config, as_wrapped(recipe, released), folder)
