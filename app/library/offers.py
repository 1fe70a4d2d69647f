"""What a library offers: every configuration, what is known of it before it is loaded, and what is missing of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from models.command_line import quoted, shown
from models.errors import MiniVLMError


@dataclass(frozen=True, kw_only=True)
class Offer:
    """A configuration under the name by which it is chosen. `num_bytes` are those of its files, as far as known.

    `problem` says in one line why it can't be loaded: files that are not here, with the command that fetches them, or
    a mistake in the YAML. `overrides` are keys that win over the YAML's, as `--options` has them.
    """

    id: str
    path: Path
    name: str
    family: str = ""
    num_bytes: int = 0
    problem: str = ""
    server: str = ""  # name and port of the one that answers, for a model elsewhere
    lacks_files: bool = False  # `problem` is that, and they may be fetched
    overrides: tuple[str, ...] = ()


def find_offers(
    paths: Iterable[Path], *, overrides: Sequence[str] = (), overridden: Iterable[Path] = ()
) -> list[Offer]:
    """An offer for each YAML, once; `overrides` are for those of `overridden` alone."""
    special = {path.resolve() for path in overridden}
    found: dict[Path, Offer] = {}
    taken: set[str] = set()
    for path in paths:
        place = path.resolve()
        if place not in found:
            name = path.stem if path.stem not in taken else f"{place.parent.name}/{path.stem}"
            taken.add(name)
            found[place] = describe(path, name, tuple(overrides) if place in special else ())
    return list(found.values())


def configs_in(folder: Path) -> list[Path]:
    """The YAMLs of a folder that name a family of this program; others are not ours."""
    from models.config import read_yaml
    from models.files.original_config import is_original_config

    found = []
    for path in sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")]):
        try:
            values = read_yaml(path)
        except MiniVLMError:
            found.append(path)  # shown with what is wrong with it
            continue
        if "family" in values or is_original_config(values):
            found.append(path)
    return found


def describe(path: Path, name: str, overrides: tuple[str, ...] = ()) -> Offer:
    """What is known of a configuration without loading it."""
    from app.remote.remote_config import remote_config
    from models.config import load_config
    from models.fetching.checkpoints import needed_files
    from models.fetching.table import find_released
    from models.memory.serving import size

    try:
        if remote := remote_config(path, overrides, url=None, key=None, model=None):
            shown_name, host = remote.name or remote.server_model or path.stem, remote.host
            return Offer(id=name, path=path, name=shown_name, family=remote.family, server=host, overrides=overrides)
        config = load_config(path, overrides)
    except MiniVLMError as error:  # one broken file must not hide the others
        return Offer(id=name, path=path, name=path.stem, problem=str(error), overrides=overrides)
    count, missing, to_fetch, is_all = 0, [], 0, True
    for file in needed_files(config):
        if file.state == "here":
            place = file.path or file.cached
            count += size_of(place) if place is not None else 0
        else:
            missing.append(f"{file.key} ({file.value})")
            released = None if config.is_toy else find_released(file.value)
            known = (released.size or 0) if released is not None else 0
            count, to_fetch, is_all = count + known, to_fetch + known, is_all and bool(known)
    problem = ""
    if missing:
        more = "" if is_all else " and what has no size in our table" if to_fetch else ""
        how_much = f" ({size(to_fetch)}{more})" if to_fetch else ""
        problem = f"Not here: {', '.join(missing)}{how_much}. Fetch: python -m models fetch {quoted(shown(path))}"
    return Offer(
        id=name,
        path=path,
        name=config.name or path.stem,
        family=config.family,
        num_bytes=count,
        problem=problem,
        lacks_files=bool(missing),
        overrides=overrides,
    )


def size_of(place: Path) -> int:
    """The bytes of a file, or of all files in a folder."""
    if place.is_dir():
        return sum(file.stat().st_size for file in place.rglob("*") if file.is_file())
    return place.stat().st_size
