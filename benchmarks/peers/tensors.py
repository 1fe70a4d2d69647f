"""A release's folder, read with numpy alone: what peers are made from, in environments without torch."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def settings(folder: Path) -> dict[str, Any]:
    """The folder's config.json."""
    values: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return values


def tensors(folder: Path) -> Iterator[tuple[str, Array]]:
    """Every tensor of the folder by its released name, in fp32, one after the other."""
    path = folder / "model.safetensors"
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    for name, about in header.items():
        if name == "__metadata__":
            continue
        start, end = about["data_offsets"]
        raw = np.fromfile(path, dtype=np.uint8, count=end - start, offset=8 + length + start)
        if about["dtype"] == "BF16":
            values = (raw.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
        else:
            values = raw.view({"F32": np.float32, "F16": np.float16}[about["dtype"]]).astype(np.float32)
        yield name, values.reshape(about["shape"])
