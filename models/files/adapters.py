"""LoRA adapter folders of the LLaVA line: what peft and the originals' training write, to go on top of a base model.

`adapter_config.json` says how, `adapter_model.safetensors` (or `.bin`) holds the pairs of matrices, and
`non_lora_trainables.bin` what was trained in full beside them, mostly the projector. A `config.json` in there is the
whole model's. Source: LLaVA, `train.py` (`get_peft_state_maybe_zero_3`) and `builder.py`, as MGM and MoE-LLaVA have it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from math import isfinite, sqrt
from pathlib import Path
from typing import Any

from models.errors import CheckpointCorrupt, CheckpointMismatch, CheckpointMissing
from models.files.json_file import json_values
from models.tensors.origins import Origin, origin_of
from models.tensors.weights import Lora, Tensors, read_tensors, take_lora

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILES = ("adapter_model.safetensors", "adapter_model.bin")
FULL_FILE = "non_lora_trainables.bin"
ADAPTER_HINT = "It is the folder that a LoRA training wrote: adapter_config.json, adapter_model.safetensors or .bin."
PREFIX = "base_model.model."  # what peft puts in front of every name

# What is computed here: B A x * alpha / rank, for linear layers. Everything else changes the mathematics.
_SUPPORTED: dict[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "fan_in_fan_out": (False,),
    "bias": ("none",),
    "lora_bias": (False,),
    "alpha_pattern": ({},),
    "rank_pattern": ({},),
    "modules_to_save": ([],),
    "layers_to_transform": ([],),
    "target_parameters": ([],),
    # Of these peft changes the base model's own weights before it adds the pairs: pissa, olora, corda, loftq, lora_ga.
    "init_lora_weights": (True, False, "gaussian", "eva", "orthogonal"),
    "layer_replication": ([],),
    "trainable_token_indices": ([], {}),
    "alora_invocation_tokens": ([],),
    "kasa_config": ({},),
    "monteclora_config": ({},),
    "arrow_config": ({},),
}
_HARMLESS_USES = ("use_rslora",)  # of peft's switches: `use_dora`, `use_qalora`, `use_bdlora` and those to come
_EXPERT = re.compile(r"\.(deepspeed_experts|block_sparse_moe)\.")


def is_adapter_folder(folder: Path) -> bool:
    """Whether a folder holds an adapter and not (also) the whole model."""
    whole = [*folder.glob("model*.safetensors*"), *folder.glob("pytorch_model*.bin*")]
    return (folder / CONFIG_FILE).is_file() and not whole


def adapter_values(folder: Path) -> dict[str, Any]:
    """The values of adapter_config.json. Raises CheckpointMissing, CheckpointCorrupt or CheckpointMismatch."""
    file = folder / CONFIG_FILE
    if not file.is_file():
        raise CheckpointMissing(f"{folder} has no {CONFIG_FILE}, so it is no LoRA adapter; finish its download.")
    values = json_values(file)
    usable_alpha(values.get("lora_alpha"), source=str(file))  # else healthy weights of the base would be blamed
    switches = {key: (False,) for key in values if key.startswith("use_") and key not in _HARMLESS_USES}
    for key, allowed in {**switches, **_SUPPORTED}.items():
        if (value := values.get(key)) is not None and value not in allowed:
            raise CheckpointMismatch(
                f"{file}: {key} is {value!r}; only {allowed[0]!r} can be merged here. Merge it with peft "
                "(merge_and_unload) and load the result."
            )
    return values


def usable_alpha(value: object, *, source: str) -> float:
    """A LoRA's alpha as a file has it. Raises CheckpointCorrupt for what is no number: no weight would be one."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not isfinite(value):
        raise CheckpointCorrupt(f"{source} can't be used: its lora_alpha is {value!r}.")
    return float(value)


def read_lora(folder: Path, base: Collection[str]) -> Lora:
    """The pairs by the released name of the weight they update; `base` are the names of the base model's tensors.

    Raises MiniVLMError, with file and tensor, for pairs that are not whole, that update nothing, or that are not those
    which adapter_config.json says were trained.
    """
    values = adapter_values(folder)
    file = next((folder / name for name in WEIGHTS_FILES if (folder / name).is_file()), None)
    if file is None:
        raise CheckpointMissing(f"{folder} holds no {' or '.join(WEIGHTS_FILES)}; finish its download.")
    tensors = read_tensors(file)
    lora = take_lora(tensors, prefix=PREFIX, alpha=float(values["lora_alpha"]))
    if tensors:
        raise CheckpointMismatch(
            f"{file}: {len(tensors)} tensors are no LoRA matrices of linear layers (first: {min(tensors)}). Merge it "
            "with peft (merge_and_unload) and load the result."
        )
    if lora is None:
        raise CheckpointMismatch(f"{file} holds no LoRA matrices; delete it and download it again.")
    if values.get("r") not in (None, lora.rank):
        raise CheckpointMismatch(
            f"{file}: its LoRA has rank {lora.rank}, but {CONFIG_FILE} says {values['r']}; they are of two trainings."
        )
    _check_targets(lora, values.get("target_modules"), base, file)
    if values.get("use_rslora"):  # scaled by the root of the rank
        lora = Lora(pairs=lora.pairs, alpha=lora.alpha * sqrt(lora.rank))
    return lora


def _check_targets(lora: Lora, targets: Any, base: Collection[str], file: Path) -> None:
    """Raises CheckpointMismatch unless the pairs are those of all target modules in the base model's layers."""
    for name in sorted(lora.pairs):
        if name not in base:
            place = origin_of(lora.pairs[name][0], Origin(str(file), name))
            raise CheckpointMismatch(f"{place} updates {name}, which the base model does not have; is it of this base?")
    if not isinstance(targets, list) or not all(isinstance(target, str) for target in targets):
        return  # a pattern of peft's own; what it is to match is not known here
    endings = tuple(f".{target}.weight" for target in targets)
    has_experts = any(_EXPERT.search(name) for name in lora.pairs)
    wanted = {
        name
        for name in base
        if name.endswith(endings)
        and re.search(r"^(model\.layers|transformer\.h)\.\d+\.", name)
        and (has_experts or not _EXPERT.search(name))
    }
    if missing := sorted(wanted - lora.pairs.keys()):
        raise CheckpointMismatch(
            f"{file}: {len(missing)} of {len(wanted)} LoRA pairs are missing (first: {PREFIX}"
            f"{missing[0].removesuffix('weight')}lora_A.weight), going by the target_modules of {CONFIG_FILE}; "
            "delete it and download it again."
        )
    if extra := sorted(name for name in lora.pairs if not name.endswith(endings)):
        place = origin_of(lora.pairs[extra[0]][0], Origin(str(file), extra[0]))
        raise CheckpointMismatch(f"{place} is not among the target_modules of {CONFIG_FILE}: {', '.join(targets)}.")


def trained_in_full(folder: Path) -> Tensors:
    """What was trained beside the LoRA, by released names; nothing where there is no such file."""
    file = folder / FULL_FILE
    tensors: Mapping[str, Any] = read_tensors(file) if file.is_file() else {}
    return {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items()}
