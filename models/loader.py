"""`load_model`: a YAML -> a model on its device. Everything is checked before anything is allocated."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import dispatch_model  # type: ignore[import-untyped]
from accelerate.hooks import remove_hook_from_module  # type: ignore[import-untyped]
from PIL import Image
from torch import nn
from transformers import PreTrainedModel

from models.config import family_module, load_config
from models.conversation import Turn
from models.conversion.reading import converted_parts
from models.devices import check_memory, choose_quantization, more_gpus, names_of, pick_devices, pick_dtype
from models.errors import ConfigError, NotEnoughMemory
from models.family_config import FamilyConfig
from models.fetching.checkpoints import remarks_on
from models.files.released import ReleasedFiles
from models.memory.memory_plan import plan_memory
from models.memory.spreading import Spread
from models.quantized.loading import from_pretrained, quantized, quantized_before
from models.tensors.completeness import check_complete, expected_shapes
from models.tensors.empty import empty_module, meta_module
from models.tensors.freed import give_back_freed_memory
from models.tensors.loading_threads import loading_threads
from models.tensors.placing import PlacedTensors
from models.tensors.tensor_reader import Progress, ReadBytes, TensorReader, no_progress
from models.tensors.weights import Part
from models.tokenizers.vocabulary import check_vocabulary
from models.vision_language_model import VisionLanguageModel

Parts = Mapping[str, Part]


def load_model(
    path: Path | str,
    *,
    device: str | None = None,
    dtype: str | None = None,
    quantization: str | None = None,
    overrides: Sequence[str] = (),
    report: Callable[[str], None] | None = print,
    keep_lora: bool = False,
    progress: Progress = no_progress,
) -> VisionLanguageModel:
    """Load the checkpoint that a YAML describes; the keyword arguments win over its keys.

    `report` is given the memory estimate before anything is allocated; with None, nothing is said and images are not
    counted. `keep_lora` leaves the checkpoint's LoRA out of the weights, in `model.lora`, for training. `progress` is
    told how many bytes of the files' tensors were read, and of how many. Raises MiniVLMError with one line for
    everything a user can mend.
    """
    config = load_config(path, overrides)
    config = dataclasses.replace(
        config,
        device=device or config.device,
        dtype=dtype or config.dtype,
        quantization=quantization or config.quantization,
    )
    return build_model(config, report=report, keep_lora=keep_lora, progress=progress)


def build_model(
    config: FamilyConfig,
    *,
    report: Callable[[str], None] | None = print,
    keep_lora: bool = False,
    progress: Progress = no_progress,
) -> VisionLanguageModel:
    """The model of a checked configuration; see `load_model`."""
    say = report or str  # to nobody
    family = family_module(config.family, source=config.source)
    devices = pick_devices(config.device)
    files = ReleasedFiles(config)
    name = config.name or config.family
    parts = parts_of(config, files)
    # Training chooses for itself.
    dtype, reason = pick_dtype(config.dtype, devices[0], 0 if keep_lora else num_weights(parts.values()))
    if reason:
        say(f"{name}: {reason}")
    if config.device == "auto" and not keep_lora:
        devices = more_gpus(parts.values(), devices, dtype, config.quantization)
    if config.quantization == "auto":
        # Training, which keeps the LoRA apart, can't train quantized weights.
        chosen, reason = ("none", "") if keep_lora else choose_quantization(parts.values(), devices, dtype)
        config = dataclasses.replace(config, quantization=chosen)
        if config.is_quantized:
            say(f"{name}: {reason}")
            parts = parts_of(config, files)
    tokenizer = family.tokenizer(files)
    say(check_memory(parts.values(), devices, dtype=dtype, quantization=config.quantization, name=name))
    for note in (*remarks_on(config), *(part.note for part in parts.values() if part.note)):
        say(note)
    empty = {key: empty_module(part, dtype) for key, part in parts.items()}
    check_parts(parts, empty)
    check_vocabulary(tokenizer, _num_rows(parts), source=parts["language_model"].source)
    outline = family.assemble(config, files, empty, tokenizer)
    _check_that_answers_end(outline, parts)
    check_context(outline, source=config.source)
    spread: Spread | None = None
    if len(devices) > 1 or (report is not None and not keep_lora):  # training keeps no keys and values
        plan = plan_memory(outline, parts, devices, dtype, config)
        spread = plan.spread
        say(plan.line())
    options: dict[str, Any] = {"device": devices[0], "dtype": dtype, "quantization": config.quantization}
    options["on_read"] = ReadBytes(parts.values(), progress).add
    maps = {"language_model": spread.device_map} if spread else {}
    try:
        modules = {
            key: materialise(part, **options, merge=not keep_lora, empty=empty.pop(key), device_map=maps.get(key))
            for key, part in parts.items()
        }
    except torch.OutOfMemoryError as error:
        raise NotEnoughMemory(
            f"{config.source}: {names_of(devices)} ran out of memory while loading. Does another program use it?"
        ) from error
    model = family.assemble(config, files, modules, tokenizer)
    _add_facts(model, config, parts, device=names_of(devices), dtype=str(dtype).removeprefix("torch."))
    if keep_lora:
        model.lora = parts["language_model"].lora
    return model


def _num_rows(parts: Parts) -> int:
    """Of the language model's embedding."""
    size: int = parts["language_model"].config.get_text_config().vocab_size
    return size


def _check_that_answers_end(outline: VisionLanguageModel, parts: Parts) -> None:
    if not any(token in range(_num_rows(parts)) for token in outline.eos_token_ids):
        source = parts["language_model"].source
        raise ConfigError(f"{source}: config.json has no eos_token_id, so no answer would end; download it again.")


def _add_facts(model: VisionLanguageModel, config: FamilyConfig, parts: Parts, **known: str) -> None:
    """What no family knows of its models."""
    model.serving = config.serving
    model.info = dataclasses.replace(model.info, num_parameters=num_weights(parts.values()), **known)  # type: ignore[arg-type]


def num_weights(parts: Collection[Part]) -> int:
    """How many numbers the files have."""
    return sum(tensor.numel() for part in parts for tensor in part.tensors.values())


def parts_of(config: FamilyConfig, files: ReleasedFiles) -> dict[str, Part]:
    """The parts of a model, from its family's released files or from a converted folder."""
    if config.is_converted:
        return converted_parts(config)
    parts: dict[str, Part] = family_module(config.family, source=config.source).parts(config, files)
    return parts


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
        module = empty[key] if empty is not None and key in empty else meta_module(part)
        expected = expected_shapes(module)
        check_complete(part, part.released_shapes(expected) if part.released_shapes else expected)


@loading_threads()
def materialise(
    part: Part,
    *,
    device: torch.device,
    dtype: torch.dtype,
    quantization: str = "none",
    merge: bool = True,
    empty: nn.Module | None = None,
    device_map: Mapping[str, torch.device] | None = None,
    on_read: Callable[[int], None] = lambda _: None,
    arranged: bool = True,
) -> nn.Module:
    """The part's module with its weights, on the device. Never initialised at random first, never copied twice.

    On a CPU it is made tensor by tensor, each of which gives the pages of its file back: at no moment is much more
    in memory than the module and the largest of its tensors. `empty` is the part's `empty_module`, if it was made
    before; its parameters are replaced. `device_map` spreads a transformers model over several devices, of which
    `device` is the first. `on_read`: see TensorReader. Quantized layers are bitsandbytes' own; on a CPU they are
    replaced by quicker ones, unless `arranged` is False, as these can't be saved.
    """
    reader = TensorReader(part, dtype, merge=merge, on_read=on_read)
    arranged = arranged and device.type == "cpu"
    if part.is_quantized:
        module = quantized_before(part, quantization, device_map or {"": device}, dtype, arranged=arranged)
        on_read(sum(tensor.nbytes for tensor in part.tensors.values()))
    elif _can_assign(part, device, quantization):
        module = _assign(empty_module(part, dtype) if empty is None else empty, part, reader, device, dtype)
    elif part.is_quantizable and quantization != "none":
        module = quantized(part, reader, quantization, device_map or {"": device}, dtype, arranged=arranged)
    else:
        module = from_pretrained(part, reader.read_all(), device_map or {"": device}, dtype)
    if device_map is not None:
        _let_inputs_follow(module, device_map, device)
    give_back_freed_memory()
    return module


def _let_inputs_follow(module: nn.Module, device_map: Mapping[str, torch.device], first: torch.device) -> None:
    """Let accelerate take the inputs of each layer to its device, and what the model returns to the first.

    transformers has done so without saying which is the first; accelerate then takes any.
    """
    remove_hook_from_module(module, recurse=True)
    skipped = getattr(module, "_skip_keys_device_placement", None)
    dispatch_model(module, dict(device_map), main_device=first, skip_keys=skipped)


def _can_assign(part: Part, device: torch.device, quantization: str) -> bool:
    """Whether the tensors can become the parameters as they are: nothing for transformers to quantize or convert."""
    if not issubclass(part.module_class, PreTrainedModel):
        return True
    is_quantized = part.is_quantizable and quantization != "none"
    # On a GPU the library's way has several tensors on their way at once.
    return device.type == "cpu" and not is_quantized


def _assign(module: nn.Module, part: Part, reader: TensorReader, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """Tensors that have the number format already are not copied: the parameters are the mapped file itself."""
    tensors = PlacedTensors(module, part, reader, dtype)
    placed = {name: tensors.read(name, device) for name in tensors.shapes}
    module.load_state_dict(placed, strict=False, assign=True)
    if isinstance(module, PreTrainedModel):
        module.tie_weights()
        module.config.dtype = dtype
    return (module if device.type == "cpu" else module.to(device)).eval()  # `to`: its own buffers
