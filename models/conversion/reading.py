"""A converted folder -> the parts that the loader makes modules from, with nothing left to rename, merge or check."""

from __future__ import annotations

import importlib
import json
import pkgutil
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import torch
import transformers
from torch import Tensor, nn
from transformers import PreTrainedConfig

import models.parts
from models.command_line import quoted
from models.conversion.folder import MODULE_FILE, Manifest, check_whole, read_manifest
from models.errors import CheckpointCorrupt, CheckpointMismatch, ConfigError
from models.family_config import FamilyConfig
from models.tensors.deferred import deferred
from models.tensors.module_config import as_config_error
from models.tensors.weights import Part, Tensors, read_tensors

_Class = TypeVar("_Class", bound=type)
CONFIG_CLASS = "config_class"  # marks transformers' configurations among the arguments in a module.json

# What bitsandbytes stores beside a packed weight, by what follows the weight's name; the first says its shape.
STATE_4BIT = ".quant_state.bitsandbytes__"
_BESIDE_4BIT = (STATE_4BIT, ".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map")
_BESIDE_8BIT = (".SCB", ".weight_format")


def converted_parts(config: FamilyConfig) -> dict[str, Part]:
    """The parts of a converted folder. Raises MiniVLMError where it is not whole, or not as the configuration wants."""
    folder = config.source.parent
    manifest = read_manifest(folder)
    check_whole(folder, manifest)
    wanted = manifest.quantization if config.quantization == "auto" else config.quantization
    if wanted != manifest.quantization and not (manifest.can_be_quantized and wanted in ("8bit", "4bit")):
        raise ConfigError(
            f"{config.source}: quantization is {wanted}, but these weights were converted with "
            f"{manifest.quantization}. Leave it out, or convert again: "
            f"python -m models convert {quoted(Path(manifest.made_from))} OUT --quantization {wanted}"
        )
    return {key: _part(folder / key, manifest, is_text=key == "language_model") for key in manifest.parts}


def _part(folder: Path, manifest: Manifest, *, is_text: bool) -> Part:
    with as_config_error(f"{folder / MODULE_FILE}"):
        values = json.loads((folder / MODULE_FILE).read_text(encoding="utf-8"))
        module_class = find_class(values["class"], nn.Module)
        if values[CONFIG_CLASS] is None:
            config: Any = {name: _argument(value) for name, value in values["arguments"].items()}
        else:
            written = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            config = _config(values[CONFIG_CLASS], written)
    tensors = read_tensors(folder)
    is_quantized = is_text and manifest.quantization != "none"
    return Part(
        name=values["name"],
        source=str(folder),
        module_class=module_class,
        config=config,
        tensors=unpacked_shapes(tensors, str(folder)) if is_quantized else tensors,
        is_quantizable=is_text and (is_quantized or manifest.can_be_quantized),
        hint=f"Convert {manifest.made_from} again.",
        note=values["note"],
        is_checked=True,
        is_quantized=is_quantized,
    )


def unpacked_shapes(tensors: Mapping[str, Tensor], source: str) -> Tensors:
    """Packed weights -> tensors of the sizes that they stand for, without values, and all others as they are.

    Raises CheckpointMismatch for a packed weight that is not whole.
    """
    shapes: Tensors = {}
    for name, tensor in tensors.items():
        if name.endswith(_BESIDE_8BIT) or any(beside in name for beside in _BESIDE_4BIT):
            continue
        shape = tensor.shape
        if not tensor.is_floating_point():
            state = next((tensors[other] for other in tensors if other.startswith(f"{name}{STATE_4BIT}")), None)
            if state is not None:
                shape = torch.Size(json.loads(bytes(state.tolist()))["shape"])
            elif f"{name.removesuffix('weight')}SCB" not in tensors:
                raise CheckpointMismatch(f"{source}: {name} is packed, but the scales of its values are missing.")
            tensor = deferred(partial(_no_values, name), form=torch.empty(shape, dtype=torch.float32, device="meta"))
        shapes[name] = tensor
    return shapes


def _no_values(name: str) -> Tensor:
    raise NotImplementedError(f"{name} is read by transformers, in its packed form")


def find_class(name: str, kind: _Class) -> _Class:
    """A class that models/parts or transformers have, by its name. Raises ValueError; nothing else is imported."""
    for module in _namespaces():
        found = getattr(module, name, None)
        if isinstance(found, type) and issubclass(found, kind):
            return found  # type: ignore[return-value]
    raise ValueError(f"{name!r} is no class that this program makes modules from")


def _namespaces() -> Iterator[ModuleType]:
    for module in pkgutil.iter_modules(models.parts.__path__):
        yield importlib.import_module(f"models.parts.{module.name}")
    yield transformers


def _config(name: str, values: Mapping[str, Any]) -> PreTrainedConfig:
    """A transformers configuration with exactly these values."""
    values = {key: value for key, value in values.items() if key not in ("quantization_config", "architectures")}
    activation = values.pop("hidden_act", None)
    config = find_class(name, PreTrainedConfig).from_dict(values)
    if activation is not None:
        config.hidden_act = activation  # not earlier: Gemma's class takes "gelu" for another function
    return config


def _argument(value: Any) -> Any:
    if isinstance(value, dict) and CONFIG_CLASS in value:
        return _config(value[CONFIG_CLASS], {key: item for key, item in value.items() if key != CONFIG_CLASS})
    return value


def check_not_packed(parts: Mapping[str, Part]) -> None:
    """Raises CheckpointCorrupt for weights that are quantized already, from which nothing can be made."""
    for part in parts.values():
        if part.is_quantized:
            raise CheckpointCorrupt(f"{part.source} is quantized already; convert the model it was made from.")
