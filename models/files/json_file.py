"""JSON files of keys and values, as released folders hold them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from models.disk import read_json
from models.errors import CheckpointCorrupt


def json_values(file: Path) -> dict[str, Any]:
    """The keys and values of a JSON file. Raises CheckpointCorrupt where it can't be read or is something else."""
    try:
        values = read_json(file)
    except (ValueError, RecursionError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointCorrupt(f"{file} can't be used ({reason}); correct it, or download it again.") from error
    if not isinstance(values, dict):
        raise CheckpointCorrupt(
            f"{file} can't be used (it holds no keys and values); correct it, or download it again."
        )
    return values
