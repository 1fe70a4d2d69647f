"""JSON files of keys and values, as released folders hold them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from models.errors import CheckpointCorrupt


def json_values(file: Path) -> dict[str, Any]:
    """The keys and values of a JSON file. Raises CheckpointCorrupt where it can't be read or is something else."""
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, OSError) as error:
        raise CheckpointCorrupt(f"{file} can't be used: {str(error).splitlines()[0]}") from error
    if not isinstance(values, dict):
        raise CheckpointCorrupt(f"{file} can't be used: it holds no keys and values.")
    return values
