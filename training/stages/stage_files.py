"""Files in the released formats: what a first stage starts from and what a stage leaves.

Whatever writes tensors raises TrainingDiverged, and writes nothing, if one of them holds NaN or infinity.
"""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from models.config import family_module, parse_keys
from models.disk import written_whole
from models.errors import ConfigError
from models.family_config import FamilyConfig
from models.fetching.checkpoints import needed_files
from training.recipe import Recipe
from training.step_watch import refuse_non_finite

_TOKENIZER_FILES = (
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "generation_config.json",
    "*.tiktoken",
)
_NOT_YET = "(made by training)"  # stands for a file that a first stage does without


def model_config(recipe: Recipe, values: Mapping[str, Any]) -> FamilyConfig:
    """The family's checked `Config` of a recipe's `model` section, completed by `values`."""
    merged = {"name": recipe.name, **recipe.model, **values, "source": recipe.source}
    module = family_module(recipe.family, source=recipe.source)
    config: FamilyConfig = parse_keys(module.Config, merged, where=f"{recipe.source}: model")
    return config


def config_without_checkpoint(recipe: Recipe) -> FamilyConfig:
    """`model_config` for a first stage, which has no checkpoint yet: to read the base models' sizes from."""
    return model_config(recipe, {"checkpoint": _NOT_YET})


def fresh_linear(inputs: int, outputs: int, seed: int) -> tuple[Tensor, Tensor]:
    """Weight [outputs, inputs] and bias of a new linear layer, as torch draws them."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layer = nn.Linear(inputs, outputs)
    return layer.weight.detach(), layer.bias.detach()


def fresh_lora(inputs: int, outputs: int, rank: int, seed: int) -> tuple[Tensor, Tensor]:
    """A [rank, inputs] and B [outputs, rank] of a new adapter, as peft draws them: B is zero."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        lora_a = torch.empty(rank, inputs)
        nn.init.kaiming_uniform_(lora_a, a=math.sqrt(5))
    return lora_a, torch.zeros(outputs, rank)


def write_stage(config: FamilyConfig, tensors: Mapping[str, Tensor], folder: Path) -> Path:
    """`checkpoint.pth` of a MiniGPT stage and, beside it, `eval.yaml`, which loads it. Gives the YAML's path."""
    checkpoint = save_checkpoint(tensors, folder / "checkpoint.pth")
    return write_eval_config(config, {"checkpoint": checkpoint.name}, folder / "eval.yaml")


def save_checkpoint(tensors: Mapping[str, Tensor], path: Path) -> Path:
    """A MiniGPT stage file, {"model": tensors}; written beside its place first, so that it is there whole or not."""
    state = {name: tensor.detach().float().cpu().contiguous() for name, tensor in tensors.items()}
    refuse_non_finite(state, path)
    return _save({"model": state}, path)


def save_flat(tensors: Mapping[str, Tensor], path: Path) -> Path:
    """A flat state dict, as `mm_projector.bin` is one."""
    state = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    refuse_non_finite(state, path)
    return _save(state, path)


def _save(content: dict[str, Any], path: Path) -> Path:
    with written_whole(path) as partial:
        torch.save(content, partial)
    return path


def save_model_folder(
    tensors: Mapping[str, Tensor], values: Mapping[str, Any], folder: Path, *, tokenizer_from: Path, dtype: torch.dtype
) -> None:
    """A transformers folder: config.json, sharded safetensors, and the tokenizer's files of another folder."""
    state = {name: tensor.detach().to(dtype).cpu().contiguous() for name, tensor in tensors.items()}
    refuse_non_finite(state, folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        _write_model_folder(state, values, unfinished, tokenizer_from)
        folder.mkdir(exist_ok=True)
        for file in sorted(unfinished.iterdir(), key=lambda file: file.name == "config.json"):  # without it, no model
            file.replace(folder / file.name)
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"{folder} can't be written ({error}); nothing half-written was left.") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _write_model_folder(
    state: Mapping[str, Tensor], values: Mapping[str, Any], folder: Path, tokenizer_from: Path
) -> None:
    split = split_torch_state_dict_into_shards(dict(state), max_shard_size="5GB")
    for file_name, names in split.filename_to_tensors.items():
        # Cloned, because tensors that share memory can't be written to one file.
        save_file({name: state[name].clone() for name in names}, folder / file_name, metadata={"format": "pt"})
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    write_config(values, folder)
    for pattern in _TOKENIZER_FILES:
        for file in tokenizer_from.glob(pattern):
            shutil.copyfile(file, folder / file.name)


def write_config(values: Mapping[str, Any], folder: Path) -> None:
    """A config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def write_eval_config(
    config: FamilyConfig, changed: Mapping[str, Any], path: Path, *, dropped: Sequence[str] = ()
) -> Path:
    """The eval config of an exported checkpoint: the keys it was trained with, `changed` ones instead.

    Files on this machine are written as absolute paths, so that the config works wherever it is called from. Device and
    number format are left to whoever loads it.
    """
    values: dict[str, Any] = {}
    here = {file.key: file.path for file in needed_files(config)}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        is_default = value == field.default or (
            field.default_factory is not dataclasses.MISSING and value == field.default_factory()
        )
        if (
            field.name in ("source", "device", "dtype", *dropped)
            or (is_default and "released" not in field.metadata)
            or value is None
        ):
            continue
        value = str(here.get(field.name) or value) if field.name in here else value
        values[field.name] = dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value  # type: ignore[arg-type]
    with written_whole(path) as partial:
        partial.write_text(yaml.safe_dump(values | dict(changed), sort_keys=False), encoding="utf-8")
    return path
