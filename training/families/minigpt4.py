"""Training of MiniGPT-4: the projection alone, in both stages.

Source: MiniGPT-4, `train_configs/minigpt4_*_stage*.yaml`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from models.families.minigpt4 import Config
from models.family_config import FamilyConfig
from models.files.released import ReleasedFiles
from models.parts.connectors import MERGED_PATCHES, qformer_config
from training.data.prompts import minigpt_prompts
from training.recipe import Recipe
from training.stages.stage_files import config_without_checkpoint, fresh_linear, save_checkpoint, write_stage
from training.stages.stage_model import Stage, StateDict

PROJECTION = r"^connector\.projection\."

STAGES = {"1": Stage(learns=(PROJECTION,)), "2": Stage(learns=(PROJECTION,))}
PROMPTS = minigpt_prompts("<s>")


def starting_values(recipe: Recipe, folder: Path) -> dict[str, Any]:
    """A new projection, if the recipe names no checkpoint."""
    if recipe.model.get("checkpoint"):
        return {}
    config = cast(Config, config_without_checkpoint(recipe))
    vision_width = config.tower_config.hidden_size
    merged = qformer_config(vision_width, config.qformer_config).hidden_size
    inputs = merged if config.has_qformer else vision_width * MERGED_PATCHES
    outputs = ReleasedFiles(config).language_model_config("language_model").hidden_size
    weight, bias = fresh_linear(inputs, outputs, recipe.seed)
    start = save_checkpoint({"llama_proj.weight": weight, "llama_proj.bias": bias}, folder / "start.pth")
    return {"checkpoint": str(start)}


def released_name(name: str) -> str:
    """`connector.projection.weight` -> `llama_proj.weight`."""
    return name.replace("connector.projection.", "llama_proj.")


def export(recipe: Recipe, config: FamilyConfig, files: ReleasedFiles, state: StateDict, folder: Path) -> Path:
    """`checkpoint.pth` with `llama_proj`, and its eval config."""
    del recipe, files
    return write_stage(config, {released_name(name): tensor for name, tensor in state.items()}, folder)
