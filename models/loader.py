"""`load_model`: a YAML -> a model on its device. Everything is checked before anything is allocated."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BitsAndBytesConfig, PreTrainedModel

from models.config import FamilyConfig, family_module, load_config
from models.devices import check_memory, pick_device, pick_dtype, weight_bytes
from models.errors import ConfigError, NotEnoughMemory
from models.released import ReleasedFiles
from models.vision_language_model import VisionLanguageModel
from models.weights import Part, check_complete, expected_shapes, merge_lora

Parts = Mapping[str, Part]


def load_model(
    path: Path | str,
    *,
    device: str | None = None,
    dtype: str | None = None,
    quantization: str | None = None,
    overrides: Sequence[str] = (),
    report: Callable[[str], None] = print,
    keep_lora: bool = False,
) -> VisionLanguageModel:
    """Load the checkpoint that a YAML describes; the keyword arguments win over its keys.

    `report` is given the memory estimate before anything is allocated. `keep_lora` leaves the checkpoint's LoRA out of
    the weights, in `model.lora`, for training. Raises MiniVLMError with one line for everything a user can mend.
    """
    config = load_config(path, overrides)
    config = dataclasses.replace(
        config,
        device=device or config.device,
        dtype=dtype or config.dtype,
        quantization=quantization or config.quantization,
    )
    return build_model(config, report=report, keep_lora=keep_lora)


def build_model(
    config: FamilyConfig, *, report: Callable[[str], None] = print, keep_lora: bool = False
) -> VisionLanguageModel:
    """The model of a checked configuration; see `load_model`."""
    family = family_module(config.family, source=config.source)
    device = pick_device(config.device)
    dtype = pick_dtype(config.dtype, device)
    files = ReleasedFiles(config)
    parts: Parts = family.parts(config, files)
    check_parts(parts)
    needed = weight_bytes(parts.values(), dtype, config.quantization)
    report(check_memory(needed, device, name=config.name or config.family, quantization=config.quantization))
    try:
        modules = {
            key: materialise(part, device=device, dtype=dtype, quantization=config.quantization, merge=not keep_lora)
            for key, part in parts.items()
        }
    except torch.OutOfMemoryError as error:
        raise NotEnoughMemory(
            f"{config.source}: {device} ran out of memory while loading; try --options quantization=4bit."
        ) from error
    model: VisionLanguageModel = family.assemble(config, files, modules)
    model.info = dataclasses.replace(
        model.info,
        num_parameters=sum(tensor.numel() for part in parts.values() for tensor in part.tensors.values()),
        device=str(device),
        dtype=str(dtype).removeprefix("torch."),
        quantization=config.quantization,
    )
    if keep_lora:
        model.lora = parts["language_model"].lora
    return model


def check_parts(parts: Parts) -> None:
    """Names and sizes of every part against its module on the meta device, both ways."""
    for part in parts.values():
        with torch.device("meta"):
            module = _construct(part)
        expected = expected_shapes(module)
        check_complete(part, part.released_shapes(expected) if part.released_shapes else expected)


def materialise(
    part: Part, *, device: torch.device, dtype: torch.dtype, quantization: str = "none", merge: bool = True
) -> nn.Module:
    """The part's module with its weights, on the device. Never initialised at random first, never copied twice."""
    tensors: dict[str, Tensor] = dict(part.tensors)
    for name, (lora_a, lora_b) in (part.lora.pairs if part.lora and merge else {}).items():
        assert part.lora is not None
        tensors[name] = merge_lora(tensors[name], lora_a, lora_b, alpha=part.lora.alpha).to(dtype)
    if not issubclass(part.module_class, PreTrainedModel):
        with torch.device("meta"):
            module = _construct(part)
        module.load_state_dict(tensors, assign=True)
        return module.to(device=device, dtype=dtype)
    options: dict[str, Any] = {}
    if part.is_quantizable and quantization != "none":
        options["quantization_config"] = _quantization_config(quantization, dtype)
    module = part.module_class.from_pretrained(
        None, config=part.config, state_dict=tensors, dtype=dtype, device_map={"": device}, **options
    )
    if options:
        _check_quantized(module, part, quantization)
    return module


def _construct(part: Part) -> nn.Module:
    if issubclass(part.module_class, PreTrainedModel):
        return part.module_class(part.config)
    return part.module_class(**part.config)


def _quantization_config(quantization: str, dtype: torch.dtype) -> BitsAndBytesConfig:
    # bitsandbytes warns at every single product that it casts its input; once is said in the documentation.
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    if quantization == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)


def _check_quantized(module: nn.Module, part: Part, quantization: str) -> None:
    """Quantization that silently leaves layers as they are must not pass: the memory estimate counts on it."""
    import bitsandbytes

    kind = bitsandbytes.nn.Linear8bitLt if quantization == "8bit" else bitsandbytes.nn.Linear4bit
    layers = [layer for layer in module.modules() if isinstance(layer, kind)]
    if not layers:
        raise ConfigError(f"{part.source}: {quantization} loading changed no layer of the {part.name}; use none.")
    head = module.get_output_embeddings() if isinstance(module, PreTrainedModel) else None
    left = [
        name
        for name, layer in module.named_modules()
        if (isinstance(layer, nn.Linear) and not isinstance(layer, kind) and layer is not head)
        # Stacked experts and the like, which bitsandbytes passes over without a word.
        or any(parameter.dim() > 2 for parameter in layer.parameters(recurse=False))
    ]
    if left:
        raise ConfigError(
            f"{part.source}: {quantization} loading left {len(left)} layers of the {part.name} at full size "
            f"(first: {left[0]}); use none."
        )
    for layer in layers:
        if quantization == "4bit" and (layer.out_features % 32 or layer.in_features % 64):
            # bitsandbytes' fast CPU kernel takes blocks of this size only, and fails on others (no released model has).
            layer.support_avx512bf16_for_cpu = False
