"""The files of a converted folder that are not weights: which they are, and whether the folder is whole."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from models.command_line import quoted
from models.errors import CheckpointCorrupt, CheckpointMissing

CONFIG_FILE = "minivlm.yaml"
MANIFEST_FILE = "manifest.json"
MODULE_FILE = "module.json"
_FORMAT = 1  # of the folder; a later one may not be read by an older program


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What was written: `files` are paths in the folder with their sizes in bytes, without this file itself.

    `parts` are the folders of weights in the order of loading; `quantization` is `none`, `8bit` or `4bit`;
    `can_be_quantized`: whether weights at full size can still be shrunk while they are loaded.
    """

    made_from: str
    program: str
    dtype: str
    quantization: str
    can_be_quantized: bool
    parts: tuple[str, ...]
    files: dict[str, int]
    format: int = _FORMAT

    def write(self, folder: Path) -> None:
        """Put it into the folder."""
        write_json(asdict(self), folder / MANIFEST_FILE)


def configuration_in(path: Path) -> Path:
    """The YAML of a converted folder; any other path as it is."""
    inside = path / CONFIG_FILE
    return inside if inside.is_file() else path


def read_manifest(folder: Path) -> Manifest:
    """A folder's manifest. Raises CheckpointMissing where there is none, CheckpointCorrupt where it is unreadable."""
    file = folder / MANIFEST_FILE
    if not file.is_file():
        raise CheckpointMissing(
            f"{folder} has no {MANIFEST_FILE}, so it is no converted model, or not the whole of it."
        )
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        manifest = Manifest(**{**values, "parts": tuple(values["parts"]), "files": dict(values["files"])})
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise CheckpointCorrupt(f"{file} can't be used; convert the model again.") from error
    if manifest.format != _FORMAT:
        raise CheckpointCorrupt(
            f"{folder} has format {manifest.format}, this program reads {_FORMAT}; convert it again."
        )
    return manifest


def check_whole(folder: Path, manifest: Manifest) -> None:
    """Raises CheckpointMissing or CheckpointCorrupt where a file is not there, or not as large as it was written."""
    missing = [name for name in manifest.files if not (folder / name).is_file()]
    again = make_again(folder, manifest)
    if missing:
        raise CheckpointMissing(
            f"{folder}: {len(missing)} of {len(manifest.files)} files are missing (first: {missing[0]}). {again}"
        )
    for name, size in manifest.files.items():
        # The YAML is for people to change.
        if name != CONFIG_FILE and (found := (folder / name).stat().st_size) != size:
            raise CheckpointCorrupt(f"{folder / name} has {found:,} bytes, but {size:,} were written. {again}")


def make_again(folder: Path, manifest: Manifest) -> str:
    """What to do about a folder that is not whole."""
    options = f" --dtype {manifest.dtype}" + f" --quantization {manifest.quantization}" * (
        manifest.quantization != "none"
    )
    made_from = quoted(Path(manifest.made_from))
    return f"Copy the folder again, or make it again: python -m models convert {made_from} {quoted(folder)}{options}"


def foreign_file(folder: Path) -> str:
    """A file in a folder that no conversion wrote; "" for none. Raises MiniVLMError for a damaged manifest."""
    known = {MANIFEST_FILE, *read_manifest(folder).files} if (folder / MANIFEST_FILE).is_file() else set()
    for place, folders, files in os.walk(folder):  # no further than to the first: it may be a whole disk
        folders.sort()
        names = (Path(place, name).relative_to(folder).as_posix() for name in sorted(files))
        if (found := next((name for name in names if name not in known), None)) is not None:
            return found
    return ""


def write_json(values: Any, file: Path) -> None:
    """A JSON file for people to read."""
    file.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
