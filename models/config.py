"""The YAML of a checkpoint -> a family's typed, checked `Config`.

A YAML names its family; the family is the module of that name in `models/families`. Keys are strict: an unknown key is
an error that lists the known ones. Eval configs of the original repositories go through `models/original_config.py`.
"""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
import types
import typing
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

import models.families
from models.conversation import Sampling
from models.errors import ConfigError
from models.original_config import adapt_original_config, is_original_config

DTYPES = ("auto", "float32", "bfloat16", "float16")
QUANTIZATIONS = ("none", "8bit", "4bit")


def released_file(hint: str, *, default: Any = dataclasses.MISSING) -> Any:
    """A field that names a released file or folder (local path or hub id); `hint` says where it comes from."""
    return field(default=default, metadata={"released": hint})


@dataclass(frozen=True, kw_only=True)
class FamilyConfig:
    """The keys every family takes. `source` is the YAML file itself, from which relative paths start."""

    source: Path
    family: str
    name: str = ""
    description: str = ""
    is_toy: bool = False
    device: str = "auto"
    dtype: str = "auto"
    quantization: str = "none"
    context_tokens: int | None = None  # as the family or its config.json says
    sampling: Sampling = field(default_factory=Sampling)

    def __post_init__(self) -> None:
        self.check_choice("dtype", DTYPES)
        self.check_choice("quantization", QUANTIZATIONS)
        if self.context_tokens is not None and self.context_tokens < 1:
            raise ConfigError(f"{self.source}: context_tokens is {self.context_tokens}; it must be more than 0.")

    def check_choice(self, key: str, known: Iterable[str]) -> None:
        """Raises ConfigError where a key has another value than the known ones."""
        if getattr(self, key) not in known:
            raise ConfigError(f"{self.source}: {key} is {getattr(self, key)!r}; choose one of {', '.join(known)}.")


def available_families() -> list[str]:
    """Names of the modules in models/families."""
    return sorted(module.name for module in pkgutil.iter_modules(models.families.__path__))


def family_module(family: str, *, source: Path | str) -> ModuleType:
    """The module of a family. Raises ConfigError for an unknown name."""
    if family not in available_families():
        raise ConfigError(f"{source}: unknown family {family!r}; available: {', '.join(available_families())}.")
    return importlib.import_module(f"models.families.{family}")


def load_config(path: Path | str, overrides: Sequence[str] = ()) -> FamilyConfig:
    """Read a YAML, apply `a.b=value` overrides, and check every key against the family's `Config`.

    Raises ConfigError with one line that names the file and what to change.
    """
    path = Path(path)
    values = read_yaml(path)
    for override in overrides:
        apply_override(values, override)
    if is_original_config(values):
        values = adapt_original_config(values, source=path)
    if not isinstance(values.get("family"), str):
        raise ConfigError(f"{path}: the key 'family' is missing; it is one of {', '.join(available_families())}.")
    module = family_module(values["family"], source=path)
    _check_keys_of_others(module.Config, values, where=str(path))
    config: FamilyConfig = parse_keys(module.Config, values | {"source": path.absolute()}, where=str(path))
    return config


def _check_keys_of_others(cls: type, values: dict[str, Any], *, where: str) -> None:
    """Raises ConfigError for a key that this family does not have and others have (`--ocr` sets one)."""
    for key in sorted(map(str, values.keys() - _keys(cls))):
        families = available_families()
        if others := [name for name in families if key in _keys(family_module(name, source=where).Config)]:
            family = values["family"]
            raise ConfigError(f"{where}: unknown key {key!r} for the family {family}; {', '.join(others)} has it.")


def _keys(cls: type) -> set[str]:
    return {f.name for f in dataclasses.fields(cls)}


def read_yaml(path: Path) -> dict[str, Any]:
    """The keys and values of a YAML file. Raises ConfigError with the file, the line and what is wrong."""
    if not path.is_file():
        folder = path if path.is_dir() else path.parent
        near = sorted(p.name for p in folder.glob("*.yaml")) if folder.is_dir() else []
        hint = f" In {folder}: {', '.join(near)}." if near else ""
        what = "is a folder." if path.is_dir() else "not found."
        raise ConfigError(f"{path} {what}{hint} Give a YAML file with --cfg-path; --list shows those that ship.")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        line = getattr(getattr(error, "problem_mark", None), "line", None)
        where = f"{path}, line {line + 1}" if line is not None else str(path)
        raise ConfigError(f"{where}: not valid YAML ({getattr(error, 'problem', None) or 'unreadable'}).") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected keys and values (a YAML mapping), found {type(values).__name__}.")
    return values


def apply_override(values: dict[str, Any], override: str) -> None:
    """Set one key of nested YAML values from `a.b=value`. Raises ConfigError if that is not its form."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"--options {override!r}: write key=value, for example sampling.temperature=0.2.")
    try:
        value = yaml.safe_load(text) if text else ""
    except yaml.YAMLError as error:
        raise ConfigError(f"--options {override!r}: {text!r} is not a YAML value; put it in quotes.") from error
    *parents, last = key.split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise ConfigError(f"--options {override!r}: {parent!r} is a single value, it has no keys inside.")
    values[last] = value


def parse_keys(cls: type, values: dict[str, Any], *, where: str, base: Any = None) -> Any:
    """Build a frozen dataclass from YAML values, checking names and types. What they leave out is as in `base`."""
    fields = {f.name: f for f in dataclasses.fields(cls)}
    known = ", ".join(name for name in fields if name != "source")
    if unknown := sorted(map(str, values.keys() - fields.keys())):
        raise ConfigError(f"{where}: unknown key {', '.join(map(repr, unknown))}; known keys: {known}.")
    required = {
        f.name for f in fields.values() if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    }
    if base is None and (missing := sorted(required - values.keys())):
        raise ConfigError(f"{where}: missing key {', '.join(map(repr, missing))}; known keys: {known}.")
    hints = typing.get_type_hints(cls)
    converted = {
        key: _convert(value, hints[key], where=f"{where}: {key}", default=_default(base, fields[key]))
        for key, value in values.items()
    }
    return cls(**converted) if base is None else dataclasses.replace(base, **converted)


def _default(base: Any, of: dataclasses.Field[Any]) -> Any:
    """What a field is where the values leave it out: of `base`, else its own default; None for a required one."""
    if base is not None:
        return getattr(base, of.name)
    if of.default_factory is not dataclasses.MISSING:
        return of.default_factory()
    return None if of.default is dataclasses.MISSING else of.default


def _convert(value: Any, wanted: Any, *, where: str, default: Any = None) -> Any:
    if isinstance(wanted, types.UnionType):
        if value is None and type(None) in wanted.__args__:
            return None
        wanted = next(arg for arg in wanted.__args__ if arg is not type(None))
    if typing.get_origin(wanted) is tuple and isinstance(value, list):
        inner = typing.get_args(wanted)[0]
        return tuple(_convert(item, inner, where=f"{where}[{index}]") for index, item in enumerate(value))
    if dataclasses.is_dataclass(wanted) and isinstance(value, dict):
        return parse_keys(typing.cast(type, wanted), value, where=where, base=default)
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    origin = typing.get_origin(wanted) or wanted
    fits = isinstance(value, origin) and not (isinstance(value, bool) and origin is not bool)
    if not fits:
        name = "a mapping of keys" if dataclasses.is_dataclass(wanted) else getattr(origin, "__name__", origin)
        raise ConfigError(f"{where} is {value!r}; it must be {name}.")
    return value
