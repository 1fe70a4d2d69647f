"""`load_model`: a YAML -> a model on its device. Everything is checked before anything is allocated."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights  # type: ignore[import-untyped]
from PIL import Image
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.initialization import no_init_weights
from transformers.modeling_utils import local_torch_dtype

from models.config import FamilyConfig, family_module, load_config
from models.conversation import Turn
from models.devices import check_memory, pick_device, pick_dtype
from models.errors import ConfigError, NotEnoughMemory
from models.module_config import explained
from models.quantization import finish_quantized, quantization_config
from models.released import ReleasedFiles
from models.vision_language_model import VisionLanguageModel
from models.weights import Part, check_complete, converted, expected_shapes, merge_lora

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
    tokenizer = family.tokenizer(files)
    name = config.name or config.family
    report(check_memory(parts.values(), device, dtype=dtype, quantization=config.quantization, name=name))
    assigned = {key: part for key, part in parts.items() if _can_assign(part, device, config.quantization)}
    empty = {key: empty_module(part, dtype) for key, part in assigned.items()}
    check_parts(parts, empty)
    options: dict[str, Any] = {"device": device, "dtype": dtype, "quantization": config.quantization}
    try:
        modules = {
            key: materialise(part, **options, merge=not keep_lora, empty=empty.get(key)) for key, part in parts.items()
        }
    except torch.OutOfMemoryError as error:
        raise NotEnoughMemory(
            f"{config.source}: {device} ran out of memory while loading. Does another program use it?"
        ) from error
    model: VisionLanguageModel = family.assemble(config, files, modules, tokenizer)
    check_context(model, source=config.source)
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


def check_context(model: VisionLanguageModel, *, source: Path) -> None:
    """Raise ConfigError where the context is too short for any question about an image."""
    shortest = [Turn("user", "?", (Image.new("RGB", (1, 1)),))]
    size = model.count_tokens(model.tokenize(model.prompt_format.render(shortest)))
    if size >= model.info.context_tokens:
        raise ConfigError(
            f"{source}: context_tokens is {model.info.context_tokens}, but the shortest question about an image takes "
            f"{size} tokens and its answer more; set it higher."
        )


def check_parts(parts: Parts, empty: Mapping[str, nn.Module] | None = None) -> None:
    """Names and sizes of every part against its module on the meta device (or the one in `empty`), both ways."""
    for key, part in parts.items():
        if empty is not None and key in empty:
            module = empty[key]
        else:
            with _explained(part), no_init_weights(), torch.device("meta"):
                module = _construct(part)
        expected = expected_shapes(module)
        check_complete(part, part.released_shapes(expected) if part.released_shapes else expected)


def materialise(
    part: Part,
    *,
    device: torch.device,
    dtype: torch.dtype,
    quantization: str = "none",
    merge: bool = True,
    empty: nn.Module | None = None,
) -> nn.Module:
    """The part's module with its weights, on the device. Never initialised at random first, never copied twice.

    `empty` is its module without weights, if there is one already; it is used up.
    """
    tensors: dict[str, Tensor] = dict(part.tensors)
    for name, (lora_a, lora_b) in (part.lora.pairs if part.lora and merge else {}).items():
        assert part.lora is not None
        tensors[name] = merge_lora(tensors[name], lora_a, lora_b, alpha=part.lora.alpha).to(dtype)
    if _can_assign(part, device, quantization):
        empty = empty_module(part, dtype) if empty is None else empty
        return _assign(empty, tensors, device=device, dtype=dtype)
    options: dict[str, Any] = {}
    if part.is_quantizable and quantization != "none":
        options["quantization_config"] = quantization_config(quantization, dtype)
    module: PreTrainedModel = part.module_class.from_pretrained(  # type: ignore[attr-defined]
        None, config=part.config, state_dict=tensors, dtype=dtype, device_map={"": device}, **options
    )
    if options:
        finish_quantized(module, part, quantization)
    return module


def _can_assign(part: Part, device: torch.device, quantization: str) -> bool:
    """Whether the tensors can become the parameters as they are: nothing for transformers to quantize or convert."""
    if not issubclass(part.module_class, PreTrainedModel):
        return True
    is_quantized = part.is_quantizable and quantization != "none"
    # On a GPU the library's way has several tensors on their way at once.
    return device.type == "cpu" and not is_quantized and part.released_shapes is None


def empty_module(part: Part, dtype: torch.dtype) -> nn.Module:
    """The part's module without weights; the tables that it computes itself are there."""
    with _explained(part), local_torch_dtype(dtype), no_init_weights(), init_empty_weights(include_buffers=False):
        return _construct(part)


def _assign(module: nn.Module, tensors: Mapping[str, Tensor], *, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """Tensors that have the number format already are not copied: the parameters are the mapped file itself."""
    # To the device first: a GPU converts faster, and files are often half as large as what they become.
    placed = {
        name: converted(tensor.to(device), dtype) if tensor.is_floating_point() else tensor.to(device)
        for name, tensor in tensors.items()
    }
    module.load_state_dict(placed, strict=False, assign=True)  # a tied weight has no tensor; see check_complete
    if isinstance(module, PreTrainedModel):
        module.tie_weights()
        module.config.dtype = dtype
    return (module if device.type == "cpu" else module.to(device)).eval()  # `to`: tables that it computes itself


def _explained(part: Part) -> AbstractContextManager[None]:
    return explained(f"{part.source}: no {part.name} can be made from its configuration")


def _construct(part: Part) -> nn.Module:
    if issubclass(part.module_class, PreTrainedModel):
        return part.module_class(copy.deepcopy(part.config))  # the model writes its own choices into it
    return part.module_class(**part.config)
