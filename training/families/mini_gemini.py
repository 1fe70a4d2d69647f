"""Training of Mini-Gemini: projector and patch info mining in stage 1, with them the language model in stage 2.

Source: MGM, `scripts/{gemma,llama,mixtral,yi}/train/*.sh`, `mgm/train/train.py`.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from models.errors import ConfigError
from models.families.mini_gemini import STAGE_1, Config, tower_folder
from models.family_config import FamilyConfig
from models.files.released import ReleasedFiles
from models.preprocessing import CropAndResize, PadAndResize
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
from training.stages.stage_model import StateDict, llava_stages

_CONNECTOR = {
    "query": "vlm_uni_query_projector",
    "key": "vlm_uni_aux_projector",
    "value": "vlm_uni_val_projector",
    "projection": "mm_projector",
}
_FIXED_FIELDS = {
    "mm_projector_type": "mlp2x_gelu",
    "mm_vision_select_layer": -2,
    "mm_vision_select_feature": "patch",
    "mm_use_im_start_end": False,
    "mm_use_im_patch_token": False,
    "use_mm_proj": True,
    "tokenizer_padding_side": "right",
}
_TOWERS = ("vision_tower", "vision_tower_aux")


def _pictures(processor: ImageProcessor, aspect_ratio: str) -> ImageProcessor:
    assert isinstance(processor, CropAndResize | PadAndResize)
    return (CropAndResize if aspect_ratio == "square" else PadAndResize)(processor.size)


STAGES = llava_stages(_pictures)
PROMPTS = llava_prompts(cuts_after_images=True)


def starting_values(recipe: Recipe, folder: Path) -> dict[str, Any]:
    """A projector file with the recipe's fields beside it: the given one, or a new one for stage 1.

    A whole MGM folder as `language_model` (to go on from a released model) is taken as it is. Stage 2-lora also starts
    from an adapter: the given one, or a new one.
    """
    config = cast(Config, model_config(recipe, {}))
    files = ReleasedFiles(config)
    if STAGES[recipe.stage].lora and files.adapter is None:
        adapter = str(fresh_adapter(recipe, config, folder / "adapter").absolute())
        return _projector(recipe, config, files, folder) | {"adapter": adapter}
    return _projector(recipe, config, files, folder)


def _projector(recipe: Recipe, config: Config, files: ReleasedFiles, folder: Path) -> dict[str, Any]:
    target = folder / "mm_projector.bin"
    values = dict(STAGE_1)
    if config.projector is not None:
        given = files.path("projector")
        if (given.parent / "config.json").is_file():
            values |= files.read_config(given.parent)
        values |= {f"mm_{key}": path for key, path in _found_towers(config, files).items()}
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(given, target)  # not a link: loading follows links, to the fields of the stage before
    elif recipe.stage == "1":
        towers = {key: _tower(config, files, key) for key in _TOWERS}
        widths = {key: _width(files.read(path)) for key, path in towers.items()}
        text_width = files.config_values("language_model")["hidden_size"]
        save_flat(fresh_connector(widths["vision_tower"], widths["vision_tower_aux"], text_width, recipe.seed), target)
        values |= {"mm_hidden_size": widths["vision_tower"], "mm_hidden_size_aux": widths["vision_tower_aux"]}
        values |= {f"mm_{key}": str(path.parent if path.is_file() else path) for key, path in towers.items()}
    else:
        return {}
    pictures = {"image_aspect_ratio": recipe.text.image_aspect_ratio}
    write_config(values | _FIXED_FIELDS | recipe.model_fields | pictures, folder)
    return {"projector": str(target.absolute())}


def _tower(config: Config, files: ReleasedFiles, key: str) -> Path:
    """A base tower's folder (CLIP) or file (OpenCLIP). Raises ConfigError."""
    given = tower_folder(config, files, key)
    if given is None:
        raise ConfigError(f"{config.source}: stage 1 needs model.{key}, the folder of the base tower.")
    file = given / "open_clip_pytorch_model.bin"
    return file if file.is_file() else given


def _width(tensors: Tensors) -> int:
    """Channels a tower gives the connector: CLIP's width, or those of all ConvNeXt stages together."""
    stages = re.compile(r"stages\.\d+\.blocks\.0\.conv_dw\.weight$")
    found = [int(tensor.shape[0]) for name, tensor in tensors.items() if stages.search(name)]
    clip = [int(t.shape[-1]) for name, t in tensors.items() if name.endswith("vision_model.embeddings.class_embedding")]
    return sum(found) if found else clip[0]


def fresh_connector(width: int, aux_width: int, text_width: int, seed: int) -> Tensors:
    """A new connector by released names: three norms with a linear layer each, and the two layers of the projector."""
    tensors: dict[str, Tensor] = {}
    layers = [("query", width, width), ("key", aux_width, width), ("value", aux_width, width)]
    for number, (name, inputs, outputs) in enumerate(layers):
        prefix = f"model.{_CONNECTOR[name]}"
        weight, bias = fresh_linear(inputs, outputs, seed + number)
        tensors |= {f"{prefix}.0.weight": torch.ones(inputs), f"{prefix}.0.bias": torch.zeros(inputs)}
        tensors |= {f"{prefix}.1.weight": weight, f"{prefix}.1.bias": bias}
    for number, (layer, inputs) in enumerate(((0, width), (2, text_width))):
        weight, bias = fresh_linear(inputs, text_width, seed + 3 + number)
        tensors |= {f"model.mm_projector.{layer}.weight": weight, f"model.mm_projector.{layer}.bias": bias}
    return tensors


def released_name(name: str) -> str:
    """`connector.query.0.weight` -> `model.vlm_uni_query_projector.0.weight`; the language model's as they are."""
    part, _, rest = name.partition(".")
    if part == "connector":
        layer, _, rest = rest.partition(".")
        return f"model.{_CONNECTOR[layer]}.{rest}"
    return rest


def export(recipe: Recipe, config: FamilyConfig, files: ReleasedFiles, state: StateDict, folder: Path) -> Path:
    """Stage 1: `mm_projector.bin` with config.json. Stage 2: a whole model folder, towers included, or an adapter's."""
    assert isinstance(config, Config)
    beside = files.path("projector").parent if config.projector is not None else files.path("language_model")
    visual = files.read_config(beside) if (beside / "config.json").is_file() else {}
    connector = {released_name(name): value for name, value in state.items() if name.startswith("connector.")}
    if recipe.stage == "1":
        save_flat(connector, folder / "mm_projector.bin")
        write_config(visual, folder)
        changed = {"projector": "mm_projector.bin"} | _found_towers(config, files)
        return write_eval_config(config, changed, folder / "eval.yaml")
    values = files.config_values("language_model") | visual
    kind = next(
        (k for k in ("gemma", "mixtral") if k in f"{values.get('model_type')} {values.get('architectures')}".lower()),
        "",
    )
    values |= {"model_type": f"mgm_{kind}" if kind else "mgm", "torch_dtype": "bfloat16", "use_cache": True}
    values["image_aspect_ratio"] = recipe.text.image_aspect_ratio
    if STAGES[recipe.stage].lora:
        full = {**_carried_towers(config, files), **connector}
        save_adapter(recipe, config, files, state, folder / "adapter", full=full, values=values)
        changed = {"language_model": files.source("language_model"), "adapter": "adapter"}
        changed |= _found_towers(config, files)
        return write_eval_config(config, changed, folder / "eval.yaml", dropped=("projector",))
    tensors = {**_tower_tensors(config, files), **retrained_tensors(config, state), **connector}
    model_folder = folder / "model"
    save_model_folder(tensors, values, model_folder, tokenizer_from=files.path("language_model"), dtype=torch.bfloat16)
    changed = {"language_model": "model"} | _found_towers(config, files)
    return write_eval_config(config, changed, folder / "eval.yaml", dropped=("projector",))


def _found_towers(config: Config, files: ReleasedFiles) -> dict[str, str]:
    """Where towers with folders of their own were found: the new folder may lie elsewhere than the old."""
    found = {key: tower_folder(config, files, key) for key in _TOWERS}
    return {key: str(path.resolve()) for key, path in found.items() if path is not None}


def _carried_towers(config: Config, files: ReleasedFiles) -> Tensors:
    """The towers that a projector file holds."""
    tensors = files.tensors("projector") if config.projector is not None else {}
    return {name: tensor for name, tensor in tensors.items() if name.startswith("model.vision_tower")}


def _tower_tensors(config: Config, files: ReleasedFiles) -> Tensors:
    """Both towers by the names that model folders have; those of a projector file as they are."""
    if config.projector is None:
        return {}
    if carried := _carried_towers(config, files):
        return carried
    tensors: Tensors = {}
    for name, tensor in files.read(_tower(config, files, "vision_tower")).items():
        if name.startswith("vision_model.") and not name.endswith("position_ids"):
            tensors[f"model.vision_tower.vision_tower.{name}"] = tensor
    for name, tensor in files.read(_tower(config, files, "vision_tower_aux")).items():
        if match := re.match(r"visual\.trunk\.(stem|stages)\.(.+)", name):
            tensors[f"model.vision_tower_aux.vision_{match[1]}.{match[2]}"] = tensor
    return tensors
