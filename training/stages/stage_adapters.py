"""LoRA adapter folders of the LLaVA line: what such a stage starts from, and what it leaves, as peft writes them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from models.config import family_module
from models.family_config import FamilyConfig
from models.files.adapters import CONFIG_FILE, FULL_FILE, PREFIX, WEIGHTS_FILES
from models.files.released import ReleasedFiles
from models.tensors.weights import Tensors
from training.recipe import Recipe
from training.stages.stage_files import fresh_lora, save_flat, write_config
from training.stages.stage_model import StateDict
from training.step_watch import refuse_non_finite

# Weights of the decoder's layers; experts and their routers are trained in full or not at all.
_IN_LAYERS = re.compile(r"^(model\.layers|transformer\.h)\.\d+\.(?!.*(deepspeed_moe|block_sparse_moe)).*\.weight$")
_LORA = re.compile(r"^language_model\.(?P<module>.+)\.lora_(?P<half>[AB])\.")


def fresh_adapter(recipe: Recipe, config: FamilyConfig, folder: Path) -> Path:
    """A new adapter for all linear layers of the language model's decoder, which changes nothing yet (B is zero)."""
    files = ReleasedFiles(config)
    pairs: dict[str, tuple[Tensor, Tensor]] = {}
    for number, (name, tensor) in enumerate(sorted(files.tensors("language_model").items())):
        if tensor.dim() == 2 and _IN_LAYERS.match(name):
            outputs, inputs = tensor.shape
            pairs[name] = fresh_lora(inputs, outputs, recipe.lora.rank, recipe.seed + number)
    _write(pairs, files, folder, alpha=recipe.lora.alpha, dropout=recipe.lora.dropout)
    return folder


def save_adapter(
    recipe: Recipe,
    config: FamilyConfig,
    files: ReleasedFiles,
    state: StateDict,
    folder: Path,
    *,
    full: Tensors,
    values: Mapping[str, Any],
) -> None:
    """The trained LoRA of `state`, the tensors of `full` that were trained beside it, and the model's config.json."""
    before = files.lora()
    assert before is not None  # the stage started from one
    part = family_module(config.family, source=config.source).parts(config, files)["language_model"]
    halves: dict[str, dict[str, list[Tensor]]] = {}
    for name in part.tensors:  # in this order: q, k, v of a fused weight are joined in it
        module = name.removesuffix(".weight")
        for key, tensor in state.items():
            if (match := _LORA.match(key)) and match["module"] == module:
                released = part.origin_of_name(name).name
                halves.setdefault(released, {"A": [], "B": []})[match["half"]].append(tensor.detach().float().cpu())
    # Where a fused weight was split, its parts share one A, which is in the state once.
    pairs = {name: (found["A"][0], torch.cat(found["B"])) for name, found in halves.items()}
    _write(pairs, files, folder, alpha=before.alpha, dropout=recipe.lora.dropout)
    save_flat({f"{PREFIX}{name}": tensor for name, tensor in full.items()}, folder / FULL_FILE)
    write_config(values, folder)


def _write(
    pairs: Mapping[str, tuple[Tensor, Tensor]], files: ReleasedFiles, folder: Path, *, alpha: float, dropout: float
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    tensors: Tensors = {}
    for name, (lora_a, lora_b) in pairs.items():
        module = PREFIX + name.removesuffix(".weight")
        tensors |= {f"{module}.lora_A.weight": lora_a.contiguous(), f"{module}.lora_B.weight": lora_b.contiguous()}
    refuse_non_finite(tensors, folder)
    save_file(tensors, folder / WEIGHTS_FILES[0], metadata={"format": "pt"})
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": files.source("language_model"),
        "r": next(iter(pairs.values()))[0].shape[0],
        "lora_alpha": alpha,
        "lora_dropout": dropout,
        "bias": "none",
        "target_modules": sorted({name.split(".")[-2] for name in pairs}),
        "inference_mode": True,
    }
    (folder / CONFIG_FILE).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
