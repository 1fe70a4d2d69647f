"""Where a released file or folder is: a local path, a place under `checkpoints/`, or a repository on the hub."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from models.config import FamilyConfig
from models.errors import CheckpointMissing, ConfigError

CHECKPOINTS_DIR = Path(__file__).resolve().parent.parent / "checkpoints"

_PLACEHOLDER = re.compile(r"please set|path[ _/]to|^/?path/|your[ _/-]|^<.*>$|^\s*$|^x{3,}$", re.IGNORECASE)
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_FILE_SUFFIXES = (".pth", ".pt", ".bin", ".safetensors")  # what no repository on the hub is called
_MODEL_FILES = ["*.json", "*.model", "*.safetensors", "*.txt", "*.tiktoken"]


@dataclass(frozen=True)
class NeededFile:
    """One released file or folder that a configuration names: its key, value, place on disk (if any), and a hint."""

    key: str
    value: str
    path: Path | None
    hint: str

    @property
    def is_hub_id(self) -> bool:
        """Whether the value could be a repository on the hub."""
        return bool(_HUB_ID.fullmatch(self.value)) and Path(self.value).suffix not in _FILE_SUFFIXES

    @property
    def state(self) -> Literal["here", "on hub", "missing"]:
        """Where it is: on this machine (or in the hub's cache), to be downloaded at the first start, or nowhere."""
        if self.path is not None:
            return "here"
        if not self.is_hub_id or _PLACEHOLDER.search(self.value):
            return "missing"
        from huggingface_hub import try_to_load_from_cache

        return "here" if isinstance(try_to_load_from_cache(self.value, "config.json"), str) else "on hub"


def needed_files(config: FamilyConfig) -> list[NeededFile]:
    """Every released file the configuration names, whether it is there or not. Downloads nothing."""
    files = []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if "released" in field.metadata and value is not None:
            files.append(NeededFile(field.name, value, find_local(value, config), field.metadata["released"]))
    return files


def find_local(value: str, config: FamilyConfig) -> Path | None:
    """The local file or folder for a value: absolute, beside the YAML, or under checkpoints/ (full id or base name)."""
    if not value.strip():
        return None  # a path of nothing would be the folder itself
    path = Path(value).expanduser()
    if path.is_absolute():
        candidates = [path]
    else:
        roots = (config.source.parent, CHECKPOINTS_DIR)
        candidates = [root / name for name in (path, Path(path.name)) for root in roots]
    return next((candidate.resolve() for candidate in candidates if candidate.exists()), None)


def find_near(value: str, folder: Path) -> Path | None:
    """A folder called like the value, in full or by its last part, in this folder or up to four levels above it."""
    candidates = (parent / name for parent in (folder, *folder.parents[:4]) for name in (value, Path(value).name))
    return next((path for path in candidates if path.is_dir()), None)


def resolve(config: FamilyConfig, key: str) -> Path:
    """The local path of the released file or folder named by `key`; a hub id is downloaded on first use.

    Raises ConfigError for a placeholder and CheckpointMissing, with where to get it, when it is nowhere.
    """
    file = next(file for file in needed_files(config) if file.key == key)
    where = f"{config.source}: {key}"
    if file.path is not None:
        return file.path
    if _PLACEHOLDER.search(file.value):
        raise ConfigError(f"{where} is the placeholder {file.value!r}; set it to the real path. {file.hint}")
    if file.is_hub_id:
        return _download(file.value, where=where, hint=file.hint)
    raise CheckpointMissing(
        f"{where}: {file.value} not found beside the YAML or in {CHECKPOINTS_DIR}.{_neighbours(file.value)} {file.hint}"
    )


def _download(repository: str, *, where: str, hint: str) -> Path:
    """The folder of a hub repository in the local cache, downloaded where it is not there yet."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        folder = Path(snapshot_download(repository, allow_patterns=_MODEL_FILES))
        if not any(folder.glob("*.safetensors")):
            # Many repositories hold the same weights twice; the pickled ones are taken only where there are no others.
            snapshot_download(repository, allow_patterns="*.bin")
        return folder
    except GatedRepoError as error:
        raise CheckpointMissing(
            f"{where}: {repository} is gated; accept its licence on its hub page, then run `hf auth login`. {hint}"
        ) from error
    except RepositoryNotFoundError as error:
        raise CheckpointMissing(f"{where}: {repository} is neither a local folder nor on the hub. {hint}") from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise CheckpointMissing(
            f"{where}: {repository} is not on this machine and the hub can't be reached "
            f"({type(error).__name__}). {hint}"
        ) from error


def _neighbours(value: str) -> str:
    """Names that do exist in the folder the value points into, to spot a typing error."""
    parent = Path(value).expanduser().parent
    folder = parent if parent.is_absolute() else CHECKPOINTS_DIR / parent
    names = sorted(path.name for path in folder.glob("[!.]*")) if folder.is_dir() else []
    return f" There: {', '.join(names[:8])}." if names else ""
