"""Training of MiniGPT-v2: the projection and LoRA on q and v, in all three stages.

Source: MiniGPT-4, `train_configs/minigptv2_finetune.yaml`; stages 1 and 2 from the paper (arXiv:2310.09478).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from models.families.minigpt_v2 import Config
from models.family_config import FamilyConfig
from models.files.released import ReleasedFiles
from models.parts.connectors import MERGED_PATCHES
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

_LORA_PREFIX = "llama_model.base_model.model."
_TRAINED = Stage(learns=(r"^connector\.projection\.",), lora=True)

STAGES = {"1": _TRAINED, "2": _TRAINED, "3": _TRAINED}
PROMPTS = minigpt_prompts("<s>")


def starting_values(recipe: Recipe, folder: Path) -> dict[str, Any]:
    """A new projection and new adapters, if the recipe names no checkpoint."""
    if recipe.model.get("checkpoint"):
        return {}
    config = cast(Config, config_without_checkpoint(recipe))
    vision_width = config.tower_config.hidden_size
    llama = ReleasedFiles(config).language_model_config("language_model")
    weight, bias = fresh_linear(vision_width * MERGED_PATCHES, llama.hidden_size, recipe.seed)
    tensors = {"llama_proj.weight": weight, "llama_proj.bias": bias}
    head = getattr(llama, "head_dim", None) or llama.hidden_size // llama.num_attention_heads
    outputs = {"q_proj": head * llama.num_attention_heads, "v_proj": head * llama.num_key_value_heads}
    for layer in range(llama.num_hidden_layers):
        for number, (name, width) in enumerate(outputs.items()):
            seed = recipe.seed + 1 + 2 * layer + number
            lora_a, lora_b = fresh_lora(llama.hidden_size, width, recipe.lora.rank, seed)
            prefix = f"{_LORA_PREFIX}model.layers.{layer}.self_attn.{name}"
            tensors |= {f"{prefix}.lora_A.weight": lora_a, f"{prefix}.lora_B.weight": lora_b}
    return {"checkpoint": str(save_checkpoint(tensors, folder / "start.pth")), "lora_alpha": recipe.lora.alpha}


def released_name(name: str) -> str:
    """Names as in the released files: `llama_proj.*`, and adapters as peft 0.2 called them."""
    name = name.replace("connector.projection.", "llama_proj.").replace(".default.", ".")
    return name.replace("language_model.", _LORA_PREFIX, 1) if name.startswith("language_model.") else name


def export(recipe: Recipe, config: FamilyConfig, files: ReleasedFiles, state: StateDict, folder: Path) -> Path:
    """`checkpoint.pth` with `llama_proj` and LoRA, and its eval config."""
    del recipe, files
    return write_stage(config, {released_name(name): tensor for name, tensor in state.items()}, folder)
