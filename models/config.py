"""The YAML of a checkpoint -> a family's typed, checked `Config`.

A YAML names its family; the family is the module of that name in `models/families` (`models/family.py` says what it
holds). Keys are strict: an unknown key is an error that lists the known ones. Eval configs of the original repositories
go through `models/files/original_config.py`.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import pkgutil
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import models.families
from models.command_line import CONFIG_DIR, path_problem, quoted, shown
from models.conversion.folder import configuration_in
from models.errors import ConfigError
from models.family import Family
from models.family_config import FamilyConfig
from models.files.original_config import adapt_original_config, is_original_config
from models.files.yaml_text import MAX_CHARACTERS, MAX_DEPTH, NotYaml, parse_yaml

_ELSEWHERE = "remote"  # what app/remote reads and nothing here loads


def available_families() -> list[str]:
    """Names of the modules in models/families."""
    return sorted(module.name for module in pkgutil.iter_modules(models.families.__path__))


def family_module(family: str, *, source: Path | str) -> Family[Any, Any]:
    """The module of a family; `source` is the file that names it. Raises ConfigError for an unknown name."""
    if family == _ELSEWHERE:
        raise ConfigError(
            f"{source} is of a server elsewhere (family {family}), so there are no files of it; serve it: "
            f"python demo.py --cfg-path {quoted(Path(source))}"
        )
    if family not in available_families():
        raise ConfigError(f"{source}: unknown family {family!r}; available: {', '.join(available_families())}.")
    return typing.cast(Family[Any, Any], importlib.import_module(f"models.families.{family}"))


def load_config(path: Path | str, overrides: Sequence[str] = ()) -> FamilyConfig:
    """Read a YAML, apply `a.b=value` overrides, and check every key against the family's `Config`.

    `path` may be a converted folder, whose own YAML is inside. Raises ConfigError with one line that names the file and
    what to change.
    """
    if problem := path_problem(Path(path)):
        raise ConfigError(f"{path} can't be used ({problem}).")
    path = configuration_in(Path(path))
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
        near = sorted(p.name for p in folder.glob("*.yaml") if p.is_file()) if folder.is_dir() else []
        hint = _meant(path) or (f" In {folder}: {', '.join(near)}." if near else "")
        what = "is a folder." if path.is_dir() else "not found."
        raise ConfigError(
            f"{path} {what}{hint} Give a YAML file with --cfg-path; python demo.py --list shows those that ship."
        )
    try:
        with path.open(encoding="utf-8") as file:
            values = parse_yaml(file.read(MAX_CHARACTERS + 1))
    except OSError as error:
        raise ConfigError(f"{path} can't be read ({error.strerror}).") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not valid YAML (it is not UTF-8).") from error
    except NotYaml as error:
        where = f"{path}, line {error.line}" if error.line is not None else str(path)
        raise ConfigError(f"{where}: not valid YAML ({error.problem}).") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected keys and values (a YAML mapping), found {type(values).__name__}.")
    return values


def _meant(path: Path) -> str:
    """The file beside a path, or among those that ship, whose name is nearly that of the path."""
    files = {
        file.stem: file
        for folder in (CONFIG_DIR, path.parent)
        for file in sorted(folder.glob("*.yaml"))
        if file.is_file()
    }
    name = path.name.removesuffix(".yaml").removesuffix(".yml")
    if name in files:
        return f" Did you mean {shown(files[name])}?"
    near = difflib.get_close_matches(name, files, n=1, cutoff=0.7)
    return f" Did you mean {shown(files[near[0]])}?" if near else ""


def apply_override(values: dict[str, Any], override: str) -> None:
    """Set one key of nested YAML values from `a.b=value`. Raises ConfigError if that is not its form."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"--options {override!r}: write key=value, for example sampling.temperature=0.2.")
    try:
        value = parse_yaml(text) if text else ""
    except NotYaml as error:
        raise ConfigError(
            f"--options {override!r}: {text!r} is not a YAML value ({error.problem}); put it in quotes."
        ) from error
    *parents, last = key.split(".")
    if len(parents) > MAX_DEPTH:
        raise ConfigError(f"--options {override!r}: no key is {len(parents)} deep.")
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise ConfigError(f"--options {override!r}: {parent!r} is a single value, it has no keys inside.")
    values[last] = value


def parse_keys(cls: type, values: dict[str, Any], *, where: str, base: Any = None) -> Any:
    """Build a frozen dataclass from YAML values, checking names and types. `base` has the values of other keys."""
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
        key: _convert(value, hints[key], where=f"{where}: {key}", default=_value_if_left_out(base, fields[key]))
        for key, value in values.items()
    }
    return cls(**converted) if base is None else dataclasses.replace(base, **converted)


def _value_if_left_out(base: Any, of: dataclasses.Field[Any]) -> Any:
    """What a field is where the YAML does not name it: as in `base`, else its own default; None if it has neither."""
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
