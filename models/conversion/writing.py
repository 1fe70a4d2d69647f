"""safetensors files written tensor by tensor: at no moment is more in memory than the tensor that is written.

The library's own `save_file` takes all tensors of a file at once, which for a model is gigabytes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

_NAMES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int64: "I64", torch.int32: "I32", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip


@dataclass(frozen=True)
class Form:
    """A tensor's shape and number format."""

    shape: torch.Size
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        """Its size in a file."""
        return self.shape.numel() * self.dtype.itemsize


def write_weights(
    forms: Mapping[str, Form],
    read: Callable[[str], Tensor],
    folder: Path,
    *,
    shard_bytes: int,
    release: Callable[[str], object] = lambda _: None,
) -> None:
    """`model.safetensors`, or shards of at most `shard_bytes` with `model.safetensors.index.json`.

    `read` is asked for each tensor once, `release` told when it is written. A larger tensor has a shard of its own.
    Raises OSError.
    """
    shards = _shards(forms, shard_bytes)
    if len(shards) == 1:
        return _write(shards[0], read, release, folder / "model.safetensors")
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        name = f"model-{number:05}-of-{len(shards):05}.safetensors"
        _write(shard, read, release, folder / name)
        weight_map |= dict.fromkeys(shard, name)
    index = {"metadata": {"total_size": sum(form.nbytes for form in forms.values())}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    return None


def _shards(forms: Mapping[str, Form], shard_bytes: int) -> list[dict[str, Form]]:
    shards: list[dict[str, Form]] = [{}]
    size = 0
    for name, form in forms.items():
        if shards[-1] and size + form.nbytes > shard_bytes:
            shards.append({})
            size = 0
        shards[-1][name] = form
        size += form.nbytes
    return shards


def _write(
    forms: Mapping[str, Form], read: Callable[[str], Tensor], release: Callable[[str], object], file: Path
) -> None:
    # Wide numbers first, as the format's own library has it: each then begins where its kind may begin in memory.
    forms = dict(sorted(forms.items(), key=lambda item: -item[1].dtype.itemsize))
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, form in forms.items():
        start, end = end, end + form.nbytes
        header[name] = {"dtype": _NAMES[form.dtype], "shape": list(form.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with file.open("wb") as target:
        target.write(len(text).to_bytes(8, "little") + text)
        for name, form in forms.items():
            tensor = read(name)
            if tensor.shape != form.shape or tensor.dtype != form.dtype:
                raise ValueError(f"{name} is not what the header says: {tensor.shape}, {tensor.dtype}")
            target.write(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
            del tensor  # before the next one is made
            release(name)
        target.flush()
        os.fsync(target.fileno())
