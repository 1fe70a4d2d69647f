"""What is in a converted folder: the weights, what a class is made with, files beside them, the YAML, the manifest."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor
from transformers import PreTrainedConfig

from models.command_line import version
from models.conversion.folder import CONFIG_FILE, MODULE_FILE, Manifest, write_json
from models.conversion.reading import CONFIG_CLASS
from models.conversion.writing import Form, write_weights
from models.devices import DTYPES
from models.errors import ConversionFailed
from models.family_config import FamilyConfig
from models.files.released import ReleasedFiles
from models.loader import materialise
from models.memory.serving import size
from models.memory.sizes import weight_bytes
from models.quantization import quantization_config
from models.tensors.completeness import expected_shapes
from models.tensors.empty import empty_module
from models.tensors.placing import PlacedTensors
from models.tensors.tensor_reader import TensorReader
from models.tensors.weights import Part

Parts = Mapping[str, Part]

_CPU = torch.device("cpu")
_TEXT = "language_model"  # the part whose folder is for other programs as well
# What lies beside released weights and goes along: tokenizer, settings, terms of use. No code.
_BESIDE = (
    "tokenizer*.json", "tokenizer.model", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt",
    "generation_config.json", "*.tiktoken", "LICENSE*", "NOTICE*", "USE_POLICY*",
)  # fmt: skip
# Values of a released config.json that describe its own files, not the model.
_NOT_KEPT = ("auto_map", "torch_dtype", "transformers_version", "_name_or_path", "quantization_config")
# Keys of a YAML that are for one machine, or that are in the weights now.
_NOT_WRITTEN = ("source", "family", "device", "dtype", "quantization", "is_converted", "lora_rank", "lora_alpha")


def write_folder(
    config: FamilyConfig,
    files: ReleasedFiles,
    parts: Parts,
    folder: Path,
    *,
    report: Callable[[str], None],
    shard_bytes: int,
) -> None:
    """Write the model to an empty folder. Raises OSError, or MiniVLMError."""
    dtype, quantization = DTYPES[config.dtype], config.quantization
    _check_room(parts, dtype, quantization, folder)
    for key, part in parts.items():
        target = folder / key
        target.mkdir()
        is_quantized = part.is_quantizable and config.is_quantized
        forms, read, release = _quantized(part, dtype, quantization) if is_quantized else _plain(part, dtype)
        write_weights(forms, read, target, shard_bytes=shard_bytes, release=release)
        _write_module(part, target, dtype, quantization if is_quantized else "none")
        report(f"{key}: {size(sum(form.nbytes for form in forms.values()))}")
    places = released_places(config, parts)
    for key, place in places.items():
        _copy_beside(files, key, folder / place, is_text=place == _TEXT)
    (folder / CONFIG_FILE).write_text(yaml.safe_dump(_values(config, places, parts), sort_keys=False), encoding="utf-8")
    Manifest(
        made_from=str(config.source),
        program=version(),
        dtype=config.dtype,
        quantization=quantization,
        can_be_quantized=_can_be_quantized(config, parts),
        parts=tuple(parts),
        files={f.relative_to(folder).as_posix(): f.stat().st_size for f in sorted(folder.rglob("*")) if f.is_file()},
    ).write(folder)


def _check_room(parts: Parts, dtype: torch.dtype, quantization: str, folder: Path) -> None:
    total, free = weight_bytes(parts.values(), dtype, quantization), shutil.disk_usage(folder).free
    if total > free:
        raise ConversionFailed(
            f"{folder.parent} has {size(free)} free, but {size(total)} are to be written. Make room, or give "
            "a folder on another disk."
        )


Source = tuple[Mapping[str, Form], Callable[[str], Tensor], Callable[[str], object]]


def _plain(part: Part, dtype: torch.dtype) -> Source:
    """The tensors of a part by the names of its module, read one by one."""
    placed = PlacedTensors(empty_module(part, dtype), part, TensorReader(part, dtype), dtype)
    forms = {name: Form(shape, placed.dtypes[name]) for name, shape in placed.shapes.items()}
    return forms, lambda name: placed.read(name, _CPU), placed.release


def _quantized(part: Part, dtype: torch.dtype, quantization: str) -> Source:
    """The packed weights of a part and what belongs to each, as bitsandbytes serializes them."""
    module = materialise(part, device=_CPU, dtype=dtype, quantization=quantization, arranged=False)
    tied = set(getattr(module, "all_tied_weights_keys", None) or ())
    tensors = {name: tensor for name, tensor in module.state_dict().items() if name not in tied}
    forms = {name: Form(tensor.shape, tensor.dtype) for name, tensor in tensors.items()}
    return forms, tensors.__getitem__, lambda _: None


def _write_module(part: Part, folder: Path, dtype: torch.dtype, quantization: str) -> None:
    """The class of a part and what it is made with."""
    has_config = isinstance(part.config, PreTrainedConfig)
    if has_config:
        values = _config_values(part.config)
        values |= {"architectures": [part.module_class.__name__], "dtype": str(dtype).removeprefix("torch.")}
        if quantization != "none":
            values["quantization_config"] = quantization_config(quantization, dtype).to_dict()
        write_json(values, folder / "config.json")
    arguments = {} if has_config else {name: _argument(value) for name, value in part.config.items()}
    values = {
        "name": part.name,
        "class": part.module_class.__name__,
        CONFIG_CLASS: type(part.config).__name__ if has_config else None,
        "arguments": arguments,
        "note": part.note if part.is_quantizable else "",  # those of towers are about files that were chosen from
    }
    write_json(values, folder / MODULE_FILE)


def _argument(value: Any) -> Any:
    if isinstance(value, PreTrainedConfig):
        return {CONFIG_CLASS: type(value).__name__, **_config_values(value)}
    return value


def _config_values(config: PreTrainedConfig) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(config.to_json_string(use_diff=False))
    return {key: value for key, value in values.items() if key not in _NOT_KEPT}


def released_places(config: FamilyConfig, parts: Parts) -> dict[str, str]:
    """Each key that names a released file -> the folder that stands for it: its part's, else the connector's.

    An adapter, which is in the weights now, has none.
    """
    keys = [f.name for f in dataclasses.fields(config) if "released" in f.metadata and f.name != "adapter"]
    return {key: key if key in parts else "connector" for key in keys if getattr(config, key) is not None}


def _copy_beside(files: ReleasedFiles, key: str, folder: Path, *, is_text: bool) -> None:
    """What families read beside weights. Of config.json the values that the part's own does not have are kept."""
    released = files.path(key)
    if released.is_dir():
        for file in (file for pattern in _BESIDE for file in released.glob(pattern)):
            shutil.copyfile(file, folder / file.name)
    beside, own = released if released.is_dir() else released.parent, folder / "config.json"
    if (beside / "config.json").is_file() and (is_text or not own.is_file()):
        values = files.config_values(key) if released.is_dir() else files.read_config(beside)
        kept = {name: value for name, value in values.items() if name not in _NOT_KEPT}
        write_json(kept | (files.read_json(own) if own.is_file() else {}), own)


def _values(config: FamilyConfig, places: Mapping[str, str], parts: Parts) -> dict[str, Any]:
    """The keys of the folder's own YAML."""
    can_be_quantized = not config.is_quantized and _can_be_quantized(config, parts)
    return {
        "family": config.family,
        **dict(_own_keys(config)),
        **places,
        "is_converted": True,
        "dtype": config.dtype,
        "quantization": "auto" if can_be_quantized else config.quantization,
    }


def _own_keys(config: FamilyConfig) -> Iterator[tuple[str, Any]]:
    """What the source's YAML says besides, where it is not the default."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name in _NOT_WRITTEN or "released" in field.metadata or value is None or value == field.default:
            continue
        if field.default_factory is not dataclasses.MISSING and value == field.default_factory():
            continue
        yield field.name, dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value  # type: ignore[arg-type]


def _can_be_quantized(config: FamilyConfig, parts: Parts) -> bool:
    """Whether the written weights can be quantized while they are loaded: not stacked experts, which are one tensor."""
    part = parts[_TEXT]
    if config.is_quantized or not part.is_quantizable:
        return False
    shapes = expected_shapes(empty_module(part, torch.float32))
    return part.released_shapes is None or part.released_shapes(shapes) == shapes
