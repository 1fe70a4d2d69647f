"""Training of MoE-LLaVA: the projector; the language model with it; then the experts that replace its feed-forwards.

Source: MoE-LLaVA, `scripts/v1/{phi2,stablelm,qwen,openchat}/*.sh`, `moellava/train/train.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from models.errors import ConfigError
from models.families.moe_llava import SIGLIP_MEAN, SIGLIP_STD, Config
from models.family_config import FamilyConfig
from models.files.released import ReleasedFiles
from models.parts.sparse_language_model import backbone_of
from models.preprocessing import CropAndResize, PadAndResize, SquareResize
from models.tensors.weights import Tensors
from models.vision_language_model import ImageProcessor
from training.data.prompts import llava_prompts
from training.recipe import Recipe
from training.stages.retrained_folder import retrained_tensors
from training.stages.stage_adapters import fresh_adapter, save_adapter
from training.stages.stage_files import (
    fresh_linear,
    model_config,
    save_flat,
    save_model_folder,
    write_config,
    write_eval_config,
)
from training.stages.stage_model import Stage, StateDict, llava_stages
from training.stages.upcycling import upcycle_folder

_FIXED_FIELDS = {
    "image_projector_type": "mlp2x_gelu",
    "mm_use_im_start_end": False,
    "mm_use_im_patch_token": False,
    "mm_video_tower": None,
    "mm_vision_select_feature": "patch",
    "mm_vision_select_layer": -2,
    "tokenizer_padding_side": "right",
    "use_mm_proj": True,
}


def _pictures(processor: ImageProcessor, aspect_ratio: str) -> ImageProcessor:
    """SigLIP's and CLIP's, with padding or without."""
    assert isinstance(processor, CropAndResize | PadAndResize | SquareResize)
    is_siglip = getattr(processor, "mean", None) == SIGLIP_MEAN
    if aspect_ratio == "square":
        return SquareResize(processor.size, SIGLIP_MEAN, SIGLIP_STD) if is_siglip else CropAndResize(processor.size)
    return PadAndResize(processor.size, SIGLIP_MEAN, SIGLIP_STD) if is_siglip else PadAndResize(processor.size)


STAGES = llava_stages(_pictures) | {
    # The feed-forwards of all layers, with experts or without; the routers are inside of those.
    "3": Stage(
        learns=(r"^connector\.", r"^language_model\.model\.layers\.\d+\.mlp\."), looks_always=True, pictures=_pictures
    ),
}
PROMPTS = llava_prompts(cuts_after_images=False)


def starting_values(recipe: Recipe, folder: Path) -> dict[str, Any]:
    """Stage 1: a new projector. 2-lora: a new adapter. 3: experts for the dense folder. Unless the recipe has them."""
    config = cast(Config, model_config(recipe, {}))
    files = ReleasedFiles(config)
    if recipe.stage == "1" and config.projector is None:
        if config.vision_tower is None:
            raise ConfigError(f"{recipe.source}: stage 1 needs model.vision_tower, the folder of CLIP or SigLIP.")
        vision = files.read_config(files.path("vision_tower"))
        width = vision.get("vision_config", vision)["hidden_size"]
        target = folder / "mm_projector.bin"
        save_flat(fresh_projector(width, files.config_values("language_model")["hidden_size"], recipe.seed), target)
        write_config(_FIXED_FIELDS | {"mm_hidden_size": width}, folder)
        return {"projector": str(target.absolute())}
    if recipe.stage == "3" and not files.config_values("language_model").get("moe"):
        sparse = folder / "sparse"
        settings = {key: recipe.model_fields[key] for key in ("mode", "num_experts") if key in recipe.model_fields}
        upcycle_folder(files.path("language_model"), sparse, seed=recipe.seed, **settings)
        return {"language_model": str(sparse.absolute())}
    if STAGES[recipe.stage].lora and files.adapter is None:
        return {"adapter": str(fresh_adapter(recipe, config, folder / "adapter").absolute())}
    return {}


def fresh_projector(width: int, text_width: int, seed: int) -> Tensors:
    """Two new linear layers by released names."""
    tensors: dict[str, Tensor] = {}
    for layer, inputs in ((0, width), (2, text_width)):
        weight, bias = fresh_linear(inputs, text_width, seed + layer)
        prefix = f"model.mm_projector.image_spatial_proj.{layer}"
        tensors |= {f"{prefix}.weight": weight, f"{prefix}.bias": bias}
    return tensors


def released_name(name: str) -> str:
    """`connector.projection.0.weight` -> `model.mm_projector.image_spatial_proj.0.weight`; others as they are."""
    return name.replace("connector.projection.", "model.mm_projector.image_spatial_proj.")


def export(recipe: Recipe, config: FamilyConfig, files: ReleasedFiles, state: StateDict, folder: Path) -> Path:
    """1: `mm_projector.bin` with config.json. 2 and 3: a whole model folder, tower included. 2-lora: an adapter's."""
    assert isinstance(config, Config)
    base = "transformer" if any(n.startswith("transformer.") for n in files.tensors("language_model")) else "model"
    connector = {
        released_name(name).replace("model.", f"{base}.", 1): tensor
        for name, tensor in state.items()
        if name.startswith("connector.")
    }
    if recipe.stage == "1":
        save_flat(connector, folder / "mm_projector.bin")
        write_config(_FIXED_FIELDS, folder)
        return write_eval_config(config, {"projector": "mm_projector.bin"}, folder / "eval.yaml")
    values = files.config_values("language_model")
    if not str(values.get("model_type")).startswith(("llava_", "moe_llava_")):  # a base language model's own
        kind = backbone_of(values, source=files.source("language_model"))
        values |= _FIXED_FIELDS | {"model_type": f"llava_{kind}"}
        values |= {"tokenizer_model_max_length": recipe.text.max_tokens}
        if recipe.model.get("vision_tower"):
            values["mm_image_tower"] = recipe.model["vision_tower"]
    values["image_aspect_ratio"] = recipe.text.image_aspect_ratio
    if STAGES[recipe.stage].lora:
        save_adapter(recipe, config, files, state, folder / "adapter", full=connector, values=values)
        changed = {"language_model": files.source("language_model"), "adapter": "adapter"}
    else:
        tensors = {**_tower_tensors(config, files, base), **retrained_tensors(config, state), **connector}
        tokenizer = files.path("language_model")
        save_model_folder(tensors, values, folder / "model", tokenizer_from=tokenizer, dtype=torch.bfloat16)
        changed = {"language_model": "model"}
    tower = files.tower_folder("vision_tower", values.get("mm_image_tower"))
    if tower is not None:  # the new folder may lie elsewhere than the old
        changed["vision_tower"] = str(tower.resolve())
    return write_eval_config(config, changed, folder / "eval.yaml", dropped=("projector", "samples_second_expert"))


def _tower_tensors(config: Config, files: ReleasedFiles, base: str) -> Tensors:
    """The tower's copy that model folders carry, from its own folder where there is one."""
    if config.vision_tower is None:
        return {}
    released = files.tensors("vision_tower")
    return {
        f"{base}.image_tower.image_tower.{name}": tensor
        for name, tensor in released.items()
        if name.startswith("vision_model.") and not name.endswith("position_ids")
    }
