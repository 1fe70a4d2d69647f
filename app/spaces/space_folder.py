"""The folder of a Space: the program, one configuration, and the files by which Hugging Face knows what to run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import yaml

from app.spaces.fitting import fitted
from app.spaces.lanes import Lane, requirements, version_of
from models.command_line import ROOT
from models.config import load_config
from models.disk import is_disk_full
from models.errors import ConfigError
from models.family_config import FamilyConfig
from models.fetching.checkpoints import CHECKPOINTS_DIR, NeededFile, is_placeholder, needed_files
from models.fetching.table import HubFile, ReleasedFile, find_released, terms_of

APP_FILE = "space.py"
_PROGRAM = ("demo.py", "pyproject.toml", "LICENSE", "app", "engine", "models")
_SCENES = ("training/__init__.py", "training/instructions.py", "training/scenes")  # draw for bundled models
_BINARY = ("*.bin", "*.model", "*.png", "*.pth", "*.safetensors", "*.woff2")  # the hub takes these through LFS alone


def make_folder(
    lane_name: str, config_path: Path, out: Path, *, title: str | None = None, index: str | None = None
) -> str:
    """Write everything that is pushed; what is to be said of the model's room there, "" for a bundled one.

    The folder is there whole or not at all. Raises ConfigError for one that is not empty or can't be written, for a
    model that does not fit the lane, and for files that are only here: what the Space can't fetch must lie under
    checkpoints/, from where it is copied.
    """
    config, out = load_config(config_path), out.absolute()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"--out {out} is there already and not empty; name a new folder.")
    copied = list(_files_to_copy(config))
    lane, line = fitted(lane_name, config)
    pinned = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    texts = {
        "README.md": _readme(lane, config, title or config.name or config_path.stem, pinned),
        "requirements.txt": requirements(pinned, lane, index),
        APP_FILE: _app_file(lane, _served(config).as_posix()),
        ".gitattributes": "".join(f"{name} filter=lfs diff=lfs merge=lfs -text\n" for name in _BINARY),
        ".gitignore": "__pycache__/\n",
    }
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # of one that was killed
    try:
        _write(config, copied, texts, partial)
        if out.is_dir():
            out.rmdir()
        partial.rename(out)
    except OSError as error:
        said = error.args[0][0][2] if isinstance(error, shutil.Error) else error.strerror or error  # of the first file
        why = "the disk is full; make room" if is_disk_full(error) else f"{said}; name another folder"
        raise ConfigError(f"--out {out} can't be written: {why}. Nothing half-written was left.") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return line


def _served(config: FamilyConfig) -> Path:
    """Where the configuration is in the Space's folder; a converted model's is inside of its own."""
    if config.is_converted:
        return Path("checkpoints") / config.source.parent.relative_to(CHECKPOINTS_DIR)
    return Path("eval_configs") / config.source.name


def _write(config: FamilyConfig, copied: Sequence[Path], texts: Mapping[str, str], out: Path) -> None:
    """The program, the configuration, files that only this machine has, and `texts` by their names. Raises OSError."""
    for name in (*_PROGRAM, *(_SCENES if config.is_toy else ())):
        _copy(ROOT / name, out / name)
    for path in copied:
        _copy(path, out / "checkpoints" / path.relative_to(CHECKPOINTS_DIR))
    if not config.is_converted:
        _copy(config.source, out / _served(config))
    for name, text in texts.items():
        (out / name).write_text(text, encoding="utf-8")


def _files_to_copy(config: FamilyConfig) -> Iterator[Path]:
    """The released files that only this machine has; a converted model's folder as a whole."""
    if config.is_converted:
        if not config.source.is_relative_to(CHECKPOINTS_DIR):
            raise ConfigError(f"{config.source.parent} is outside of {CHECKPOINTS_DIR}; move it there.")
        yield config.source.parent
        return
    for file in needed_files(config):
        if is_placeholder(file.value):
            raise ConfigError(f"{config.source}: {file.key} is the placeholder {file.value!r}. {file.hint}")
        if _published(file) is not None or (file.path is None and file.is_hub_id):
            continue  # the Space fetches it
        if file.path is None:
            raise ConfigError(f"{config.source}: {file.key}: {file.value} is neither here nor can it be fetched.")
        if not file.path.is_relative_to(CHECKPOINTS_DIR):
            raise ConfigError(
                f"{config.source}: {file.key}: {file.path} is outside of {CHECKPOINTS_DIR}, so a Space would not find "
                "it; move it there, or name a repository on the hub."
            )
        yield file.path


def _published(file: NeededFile) -> ReleasedFile | None:
    """Its row of the table, if the file can be fetched and the one that is here, if any, has the published size."""
    released = find_released(file.value)
    if released is None or not released.addresses:
        return None
    is_another = file.path is not None and not (file.path.is_file() and file.path.stat().st_size == released.size)
    return None if is_another else released


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copyfile(source, target)


def _app_file(lane: Lane, served: str) -> str:
    first = f"import {lane.first_import}  # before torch, in whose place it puts what it has\n\n" * bool(
        lane.first_import
    )
    arguments = ["--cfg-path", served, "--download", *lane.arguments]
    return f'''"""Starts the chat on this Space: fetches what is not here, checks it, and serves the page."""

{first}import os
import sys

import demo

os.environ.setdefault("GRADIO_SERVER_NAME", "0.0.0.0")
sys.exit(demo.main({json.dumps(arguments)} + sys.argv[1:]))
'''


def _readme(lane: Lane, config: FamilyConfig, title: str, pinned: str) -> str:
    files = needed_files(config)
    front = {
        "title": title,
        "emoji": "🔎",
        "colorFrom": "indigo",
        "colorTo": "green",
        "sdk": "gradio",
        "sdk_version": version_of("gradio", pinned),
        "python_version": lane.python,
        "app_file": APP_FILE,
        "suggested_hardware": lane.hardware[0].name,
        "startup_duration_timeout": "1h",
        "license": "mit",
        "short_description": "Chat about images, with boxes",
        "models": sorted(set(_repositories(files))),
    }
    block = yaml.safe_dump({k: v for k, v in front.items() if v}, sort_keys=False, allow_unicode=True, width=1000)
    return f"""---
{block}---

# {title}

Chat about images with an open vision-language model: drop a picture, ask, and click what it names to see where it is.

{config.description or f"The model is {config.name or config.family}."}

{_terms(config, files)}
"""


def _repositories(files: list[NeededFile]) -> Iterator[str]:
    """The model repositories on the hub that the files come from."""
    for file in files:
        released = _published(file)
        if released is not None:
            first = next((one for one in released.addresses if isinstance(one, HubFile)), None)
            if first is not None and first.repo_type == "model":
                yield first.repository
        elif file.path is None:
            yield file.value


def _terms(config: FamilyConfig, files: list[NeededFile]) -> str:
    """What a Space's visitors and its owner should know of the weights."""
    lines = []
    for file in files:
        released = _published(file)
        if released is not None:
            lines.append(f"- `{file.value}`: {released.terms}")
        elif file.path is None:
            terms, must_accept = terms_of(file.value)
            accept = " Accept them on its page and store a token as this Space's secret `HF_TOKEN`." * must_accept
            lines.append(f"- `{file.value}`: {terms or 'see its page'}.{accept}")
    if not lines:
        return "The program has the MIT licence." + " So has the model." * config.is_toy
    return "The program has the MIT licence. The weights have terms of their own:\n\n" + "\n".join(lines)
