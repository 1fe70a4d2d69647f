"""The list of configurations that `--list` prints: what each one needs, how large that is, and whether it is here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from models.command_line import CONFIG_DIR, did_you_mean, quoted, reader_may_leave, shown
from models.errors import ConfigError, MiniVLMError

if TYPE_CHECKING:
    from app.remote.remote_config import RemoteConfig
    from models.family_config import FamilyConfig
    from models.fetching.checkpoints import NeededFile

STATES = {"ready": "ready", "missing": "files missing", "download": "will be downloaded"}
"""The words that choose configurations by their state, and how the list shows it."""


@dataclass(frozen=True)
class Listed:
    """A configuration of the list; one whose YAML is wrong has an `error` instead of files."""

    path: Path
    config: FamilyConfig | RemoteConfig | None = None
    files: tuple[NeededFile, ...] = ()
    error: str = ""

    @property
    def verdict(self) -> str:
        """A word of STATES."""
        states = {file.state for file in self.files}
        return "missing" if "missing" in states or self.error else "ready" if states <= {"here"} else "download"

    def matches(self, word: str) -> bool:
        """Whether it is chosen by a state, its family, or a part of its file's name."""
        if word in STATES:
            return self.verdict == word
        families = {self.config.family} if self.config else set()
        return word in families or word.removesuffix(".yaml") in self.path.stem


def describe_configs(words: Sequence[str] = (), folder: Path = CONFIG_DIR) -> str:
    """The YAMLs of a folder with family, name, files, sizes and whether they are here; `words` must all match.

    What memory the weights take is read from headers, which takes the loader's libraries: only of those that were
    chosen. Raises ConfigError for words that choose none.
    """
    found = [_listed(path) for path in sorted(folder.glob("*.yaml"))]
    if not found:
        return f"No configurations in {folder}."
    chosen = [one for one in found if all(one.matches(word.lower()) for word in words)]
    if not chosen:
        known = {*STATES, *(one.path.stem for one in found), *(one.config.family for one in found if one.config)}
        unknown = [word for word in words if not any(one.matches(word.lower()) for one in found)]
        meant = next((hint for word in unknown if (hint := did_you_mean(word.lower(), sorted(known)))), "")
        raise ConfigError(
            f"--list {' '.join(words)}: no configuration is that.{meant} Words: {', '.join(STATES)}, "
            "a family, a part of a name."
        )
    return "\n\n".join(_describe(one, with_memory=bool(words)) for one in chosen)


def config_names() -> list[str]:
    """The names of the configurations that ship, without folder and ending."""
    return sorted(path.stem for path in CONFIG_DIR.glob("*.yaml"))


def find_config(name: str) -> Path:
    """The YAML of a name that `config_names` has, or the file itself. Raises ConfigError."""
    if name in config_names():
        return CONFIG_DIR / f"{name}.yaml"
    path = Path(name).expanduser()
    if not path.is_file():
        raise ConfigError(f"There is no configuration {name!r}.{did_you_mean(path.stem, config_names())}")
    return path


def _listed(path: Path) -> Listed:
    from app.remote.remote_config import remote_config
    from models.config import load_config
    from models.fetching.checkpoints import needed_files

    try:
        if remote := remote_config(path, [], url=None, key=None, model=None):
            return Listed(path, remote)
        config = load_config(path)
        return Listed(path, config, tuple(needed_files(config)))
    except MiniVLMError as error:  # one broken file must not hide the others
        return Listed(path, error=str(error))


def _describe(one: Listed, *, with_memory: bool) -> str:
    from app.remote.remote_config import RemoteConfig
    from models.fetching.plan import gib

    path = shown(one.path)
    if one.config is None:
        return f"{path}\n  error: {one.error}"
    lines = [f"{path}  [{STATES[one.verdict]}]", f"  {one.config.name or one.path.stem} ({one.config.family})"]
    if isinstance(one.config, RemoteConfig):
        lines.append(f"  Asks {one.config.server_model or 'the model'} at {one.config.base_url}")
        return "\n".join(lines)
    sizes = [_size(file) for file in one.files]
    for file, size in zip(one.files, sizes, strict=True):
        lines.append(f"  {file.state:<8} {file.key:<15} {file.value}{f'  ({gib(size)})' if size else ''}")
        if file.state != "here":
            lines.append(f"{'':26} {'Downloaded at the first start. ' if file.state == 'on hub' else ''}{file.hint}")
    if known := [size for size in sizes if size]:
        lines.append(f"  Files: {gib(sum(known))}{' and those of unknown size' * (len(known) < len(sizes))}")
    if with_memory and one.verdict == "ready":
        lines.append(f"  {_memory(one.config)}")
    if one.verdict != "ready":
        lines.append(f"  Fetch them: python -m models fetch {quoted(path)}")
    return "\n".join(lines)


def _size(file: NeededFile) -> int | None:
    """Bytes of a file or folder that is here, or as it was released; None where nobody knows without a network."""
    from app.library.offers import size_of
    from models.fetching.table import find_released

    path = file.path or file.cached
    if path is None:
        released = find_released(file.value)
        return released.size if released else None
    return size_of(path)


def _memory(config: FamilyConfig) -> str:
    from models.fetching.plan import gib
    from models.inspection.verify import weight_sizes

    try:
        sizes = weight_sizes(config)
    except MiniVLMError as error:
        return f"error: {error}"
    return "Memory for the weights: " + ", ".join(f"{label} {gib(count)}" for label, count in sizes.items())


def show(text: str) -> None:
    """Print, and end quietly when the reader has had enough (`demo.py --list | head`)."""
    with reader_may_leave():
        print(text)
