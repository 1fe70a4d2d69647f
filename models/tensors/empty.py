"""The module of a part before it has weights."""

from __future__ import annotations

import copy
from contextlib import AbstractContextManager

import torch
from accelerate import init_empty_weights  # type: ignore[import-untyped]
from torch import nn
from transformers import PreTrainedModel
from transformers.initialization import no_init_weights
from transformers.modeling_utils import local_torch_dtype

from models.errors import ConfigError
from models.tensors.module_config import as_config_error
from models.tensors.weights import Part

_MOST_MODULES = 1000


def empty_module(part: Part, dtype: torch.dtype) -> nn.Module:
    """The part's module without weights; the buffers that it computes itself (rotary frequencies) are there."""
    with (
        _construction_errors(part),
        local_torch_dtype(dtype),
        no_init_weights(),
        init_empty_weights(include_buffers=False),
    ):
        return _construct(part)


def meta_module(part: Part) -> nn.Module:
    """The part's module for its names and sizes alone. Raises ConfigError."""
    with _construction_errors(part), no_init_weights(), torch.device("meta"):
        return _construct(part)


def _construction_errors(part: Part) -> AbstractContextManager[None]:
    return as_config_error(f"{part.source}: no {part.name} can be made from its configuration")


def _construct(part: Part) -> nn.Module:
    if issubclass(part.module_class, PreTrainedModel):
        for key in ("num_hidden_layers", "num_local_experts"):  # a module each, which takes time even without weights
            if (count := getattr(part.config, key, 1)) > _MOST_MODULES:
                raise ConfigError(f"{part.source}: {key} is {count}; no model has more than {_MOST_MODULES}.")
        return part.module_class(copy.deepcopy(part.config))  # the model writes its own choices into it
    return part.module_class(**part.config)
