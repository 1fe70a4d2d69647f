"""Values of a YAML or of a config.json -> what modules are made from; a wrong one is one line that says where it is."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedConfig

from models.errors import ConfigError

# What transformers and torch raise for values that nothing can be made from.
_REFUSALS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    RuntimeError,
    StrictDataclassError,
    TypeError,
    ValueError,
)
_LONGEST_REASON = 300  # of an unknown model type transformers lists all that it knows
_Config = TypeVar("_Config", bound=PreTrainedConfig)


@contextmanager
def as_config_error(where: str) -> Iterator[None]:
    """Within the block, what transformers and torch raise for values that they can't use becomes a ConfigError.

    `where` says where the values come from. Nothing else may be in the block: a bug would look like a wrong value.
    """
    try:
        yield
    except _REFUSALS as error:
        missing = isinstance(error, KeyError)
        reason = f"{error} is missing or unknown" if missing else " ".join(str(error).split()) or type(error).__name__
        reason = reason if len(reason) <= _LONGEST_REASON else f"{reason[:_LONGEST_REASON]}…"
        raise ConfigError(f"{where}: its values can't be used ({reason}).") from error


def module_config(
    config_class: type[_Config], values: Mapping[str, Any], overrides: Mapping[str, Any] | None, *, where: str
) -> _Config:
    """A transformers configuration from values, with what a YAML sets in `overrides`. Raises ConfigError."""
    known = {field.name for field in dataclasses.fields(config_class)}
    if unknown := sorted(map(str, (overrides or {}).keys() - known)):
        own = ", ".join(sorted(known - {field.name for field in dataclasses.fields(PreTrainedConfig)}))
        raise ConfigError(f"{where}: unknown key {', '.join(map(repr, unknown))}; known keys: {own}.")
    with as_config_error(where):
        config = config_class(**{**values, **(overrides or {})})
    if getattr(config, "num_hidden_layers", 1) < 1:
        raise ConfigError(f"{where}: num_hidden_layers is {config.num_hidden_layers}; it must be at least 1.")
    return config
