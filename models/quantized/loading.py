"""Loading with 8-bit or 4-bit weights, which transformers lets bitsandbytes make of each tensor as it comes."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from models.errors import MiniVLMError
from models.quantization import check_quantized, quantization_config, wider_weights
from models.quantized.arranged import arrange, stand_in
from models.tensors.deferred import deferred
from models.tensors.freed import give_back_freed_memory
from models.tensors.tensor_reader import TensorReader
from models.tensors.weights import HEAD, Part


def quantized(
    part: Part,
    reader: TensorReader,
    quantization: str,
    device_map: Mapping[str, torch.device],
    dtype: torch.dtype,
    *,
    arranged: bool,
) -> nn.Module:
    """The part with 8-bit or 4-bit weights. The library takes one tensor after the other where it quantizes.

    `arranged`: on a CPU, with layers that multiply quickly there.
    """
    wrong: list[MiniVLMError] = []

    def read(name: str) -> Tensor:
        give_back_freed_memory()  # the tensor before was there at full size as well
        try:
            return reader.read_copy(name, dtype)
        except MiniVLMError as error:  # of which the library would make a report of its own
            wrong.append(error)
            raise

    tensors = {name: deferred(partial(read, name), form=_form(tensor, dtype)) for name, tensor in part.tensors.items()}
    wider = wider_weights(part, quantization) if arranged else frozenset[str]()
    for name in (wider | {HEAD}) & tensors.keys() if arranged else ():  # they are read later, row by row
        tensors[name] = stand_in(tensors[name], dtype)
    options = {"quantization_config": quantization_config(quantization, dtype, wider)}
    try:
        module = from_pretrained(part, tensors, device_map, dtype, **options)
    except Exception:
        if not wrong:
            raise
    if wrong:
        raise wrong[0]
    check_quantized(module, part, quantization, wider)
    if arranged:
        rows = {name: reader.read_rows(name, dtype) for name in wider}
        arrange(module, reader.read_rows(HEAD, dtype) if HEAD in tensors else None, rows)
    return module


def quantized_before(
    part: Part,
    quantization: str,
    device_map: Mapping[str, torch.device],
    dtype: torch.dtype,
    *,
    arranged: bool,
) -> nn.Module:
    """A part whose folder holds 8-bit or 4-bit weights, as the library reads them; `arranged`: see `quantized`."""
    config = copy.deepcopy(part.config)
    config.quantization_config = quantization_config(quantization, dtype).to_dict()
    module: PreTrainedModel = part.module_class.from_pretrained(  # type: ignore[attr-defined]
        part.source,
        config=config,
        trust_remote_code=False,
        local_files_only=True,
        dtype=dtype,
        device_map=dict(device_map),
    )
    check_quantized(module, part, quantization)
    if arranged:
        arrange(module)
    return module


def _form(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Its shape and number format once it was read, without values."""
    return torch.empty(tensor.shape, dtype=dtype if tensor.is_floating_point() else tensor.dtype, device="meta")


def from_pretrained(
    part: Part,
    tensors: Mapping[str, Tensor],
    device_map: Mapping[str, torch.device],
    dtype: torch.dtype,
    **options: Any,
) -> nn.Module:
    """transformers' own loading, of tensors by name."""
    module: PreTrainedModel = part.module_class.from_pretrained(  # type: ignore[attr-defined]
        None,
        config=part.config,
        state_dict=dict(tensors),
        trust_remote_code=False,
        dtype=dtype,
        device_map=dict(device_map),
        **options,
    )
    return module
