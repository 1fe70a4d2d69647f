"""Where a released file or folder is: a local path, a place under `checkpoints/`, or a repository on the hub."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from models.command_line import path_problem, quoted
from models.errors import CheckpointMissing, ConfigError
from models.family_config import FamilyConfig
from models.fetching.table import find_released

CHECKPOINTS_DIR = Path(__file__).resolve().parents[2] / "checkpoints"

DESCRIBING = ("config.json", "open_clip_config.json")  # one of them is in every model's repository

_PLACEHOLDER = re.compile(r"please set|path[ _/]to|^/?path/|your[ _/-]|^<.*>$|^\s*$|^x{3,}$", re.IGNORECASE)
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_FILE_SUFFIXES = (".pth", ".pt", ".bin", ".safetensors")  # what no repository on the hub is called


@dataclass(frozen=True)
class NeededFile:
    """One released file or folder that a configuration names: its key, value, place on disk (if any), and a hint.

    `remark` is what people should know of that place: that it is not the value's own, but has its last part. `problem`
    is why nothing can be made of what is there.
    """

    key: str
    value: str
    path: Path | None
    hint: str
    remark: str = ""
    problem: str = ""

    @property
    def is_hub_id(self) -> bool:
        """Whether the value could be a repository on the hub."""
        return bool(_HUB_ID.fullmatch(self.value)) and Path(self.value).suffix not in _FILE_SUFFIXES

    @property
    def state(self) -> Literal["here", "on hub", "missing"]:
        """Where it is: on this machine (or in the hub's cache), to be downloaded at the first start, or nowhere."""
        if self.path is not None:
            return "here"
        if self.problem or not self.is_hub_id or is_placeholder(self.value):
            return "missing"
        return "here" if self.cached is not None else "on hub"

    @property
    def cached(self) -> Path | None:
        """The folder of a hub repository in the hub's cache; None where it is not there."""
        from huggingface_hub import try_to_load_from_cache

        names = DESCRIBING if self.is_hub_id else ()
        found = (try_to_load_from_cache(self.value, name) for name in names)
        return next((Path(place).parent for place in found if isinstance(place, str)), None)


def needed_files(config: FamilyConfig) -> list[NeededFile]:
    """Every released file the configuration names, whether it is there or not. Downloads nothing."""
    files = []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if "released" in field.metadata and value is not None:
            path, remark, problem = find_local(value, config), "", _broken_link(value, config)
            if path is None and not problem and (path := _by_last_part(value, config)) is not None:
                remark = f"{value} is not here by its full name; {path} is taken for it"
            files.append(NeededFile(field.name, value, path, field.metadata["released"], remark, problem))
    return files


def remarks_on(config: FamilyConfig) -> list[str]:
    """What is to be said of where a configuration's files were found."""
    return [f"note: {file.key}: {file.remark}." for file in needed_files(config) if file.remark]


def find_local(value: str, config: FamilyConfig) -> Path | None:
    """The local file or folder for a value: absolute, beside the YAML, or under checkpoints/."""
    if not value.strip():
        return None  # an empty path would be the YAML's own folder
    return next((place.resolve() for place in _places(value, config) if place.exists()), None)


def _places(value: str, config: FamilyConfig) -> list[Path]:
    """Where a value can be; an absolute path stays what it is. Raises ConfigError for what can be no path."""
    try:
        path = Path(value).expanduser()
    except RuntimeError as error:  # nobody's home
        raise ConfigError(f"{config.source}: {value} can't be used ({error}).") from error
    places = [root / path for root in (config.source.parent, CHECKPOINTS_DIR)]
    if problem := next(filter(None, map(path_problem, places)), ""):
        raise ConfigError(f"{config.source}: {value} can't be used ({problem}).")
    return places


def _broken_link(value: str, config: FamilyConfig) -> str:
    """What is to be said of a link in a value's place that leads nowhere; "" where there is none."""
    link = next((p for p in _places(value, config) if value.strip() and p.is_symlink() and not p.exists()), None)
    if link is None or find_local(value, config) is not None:
        return ""
    return f"{link} is a link to {link.readlink()}, where nothing is; mend it or delete it"


def _by_last_part(value: str, config: FamilyConfig) -> Path | None:
    """A repository's folder or a released file without the folders in front of it, as people put them down.

    Of any other path the last part alone would be somebody else's: every training has a `checkpoint_best.pth`.
    """
    is_one_of_many = Path(value).name == "mm_projector.bin"
    if NeededFile("", value, None, "").is_hub_id or (find_released(value) is not None and not is_one_of_many):
        return find_local(Path(value).name, config)
    return None


def find_named(name: str, config: FamilyConfig) -> Path | None:
    """What a config.json names, whose folders are those of whoever trained it: in full, else by its last part."""
    path = Path(name)
    return find_local(name, config) or (None if path.is_absolute() else find_local(path.name, config))


def find_near(value: str, folder: Path) -> Path | None:
    """A folder called like the value, in full or by its last part, in this folder or up to four levels above it."""
    candidates = (parent / name for parent in (folder, *folder.parents[:4]) for name in (value, Path(value).name))
    return next((path for path in candidates if path.is_dir()), None)


def is_placeholder(value: str) -> bool:
    """Whether a value only says that a path is to be put there."""
    return bool(_PLACEHOLDER.search(value))


def resolve(config: FamilyConfig, key: str) -> Path:
    """The local path of the released file or folder named by `key`; a hub id is downloaded on first use.

    Raises ConfigError for a placeholder and CheckpointMissing, with where to get it, if it or another file of the
    configuration is not here.
    """
    file = next(file for file in needed_files(config) if file.key == key)
    where = f"{config.source}: {key}"
    if file.path is not None:
        return file.path
    if is_placeholder(file.value):
        raise ConfigError(f"{where} is the placeholder {file.value!r}; set it to the real path. {file.hint}")
    if file.problem:
        raise CheckpointMissing(f"{where}: {file.problem}.")
    others = [other for other in needed_files(config) if other.state == "missing" and other.key != key]
    if file.is_hub_id and (file.cached is not None or not others):
        return _download(file.value, where=where, hint=file.hint)
    if others:  # before gigabytes come for nothing
        raise CheckpointMissing(describe_missing(config, [f for f in needed_files(config) if f.state != "here"]))
    if question := meant(file.value, config):
        raise CheckpointMissing(f"{where}: {file.value} is {question}")
    raise CheckpointMissing(
        f"{where}: {file.value} not found beside the YAML or in {CHECKPOINTS_DIR}.{_neighbours(file.value)} "
        f"{file.hint} {_how_to_fetch(config) if find_released(file.value) else ''}".strip()
    )


def resolve_base(config: FamilyConfig, adapter: Path, name: str) -> Path:
    """The folder of the base model that a LoRA adapter names: here, near the adapter, or on the hub.

    Raises CheckpointMissing, with what to set, where it is nowhere.
    """
    found = find_named(name, config) or (find_near(name, adapter) if name.strip() else None)
    if found is not None:
        return found
    how = f"Set language_model to the folder of its base model, and adapter to {adapter}."
    where = f"{adapter}/adapter_config.json: base_model_name_or_path"
    if NeededFile("language_model", name, None, "").is_hub_id and not is_placeholder(name):
        return _download(name, where=where, hint=how)
    raise CheckpointMissing(f"{where} is {name!r}, which is not here. {how}")


def describe_missing(config: FamilyConfig, missing: Sequence[NeededFile]) -> str:
    """One line that names all missing files of a configuration, each with where it is to be had."""
    each = "; ".join(
        f"{file.key}: {file.value} ({file.problem or meant(file.value, config) or _source(file)})" for file in missing
    )
    verb = "files are" if len(missing) > 1 else "file is"
    return f"{config.source}: {len(missing)} {verb} missing. {each}. {_how_to_fetch(config)}"


def meant(value: str, config: FamilyConfig) -> str:
    """A question about what is here and could be meant: the path from where the program runs, or its last part."""
    path = Path(value)
    if not value.strip() or path.is_absolute():
        return ""
    found = path.resolve() if path.exists() else find_local(path.name, config)  # the first, as a shell completes it
    return f"not beside the YAML nor below checkpoints/; did you mean {found}?" if found else ""


def _source(file: NeededFile) -> str:
    """Where a missing file is to be had: its first address in the table, else what its key says."""
    released = find_released(file.value)
    if released is None:
        return file.hint.rstrip(".")
    return str(released.addresses[0]) if released.addresses else released.by_hand


def _how_to_fetch(config: FamilyConfig) -> str:
    return f"This fetches what can be had: python -m models fetch {quoted(config.source)}"


def _download(repository: str, *, where: str, hint: str) -> Path:
    """The folder of a hub repository in the local cache, downloaded where it is not there yet."""
    from models.fetching.first_start import download_repository
    from models.fetching.repository import cached_folder
    from models.fetching.web import WebError, explain

    try:
        return download_repository(repository)
    except WebError as error:
        if (folder := cached_folder(repository)) is not None:
            return folder
        page = f"https://huggingface.co/{repository}"
        raise CheckpointMissing(f"{where}: {explain(error, what=repository, page=page)} {hint}") from error


def _neighbours(value: str) -> str:
    """Names that do exist in the folder the value points into, to spot a typing error."""
    parent = Path(value).expanduser().parent
    folder = parent if parent.is_absolute() else CHECKPOINTS_DIR / parent
    names = sorted(path.name for path in folder.glob("[!.]*")) if folder.is_dir() else []
    return f" There: {', '.join(names[:8])}." if names else ""
