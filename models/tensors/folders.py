"""Which files a folder's weights are in; and what a folder is that holds none, as people have them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from models.disk import read_json
from models.errors import CheckpointCorrupt, CheckpointMissing
from models.tensors.foreign import AS_RELEASED
from models.tensors.state_dicts import is_beside

# Where a folder's weights are, the first that is there; what `transformers` itself would take.
_FOLDER_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "mm_projector.bin",
)
_SHARD = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.\w+")
_UNFINISHED = ("*.part", "*.incomplete", "*.crdownload", "*.aria2", "*.tmp")  # as programs that download call files
_ARCHIVES = ("*.zip", "*.tar", "*.tar.*", "*.tgz", "*.7z")


def weights_file(folder: Path) -> Path | None:
    """The file that a folder's weights are in, or the index of several; None where there is none."""
    return next((folder / name for name in _FOLDER_FILES if (folder / name).is_file()), None)


def weight_files(folder: Path) -> list[Path]:
    """All files that a folder's weights are in. Raises CheckpointMissing or CheckpointCorrupt, with what to do."""
    file = weights_file(folder)
    if file is None:
        if files := _shards_without_index(folder):
            return files
        raise CheckpointMissing(f"{folder} holds no model weights: {_what_it_is(folder)}")
    return _shards_of(file) if file.suffix == ".json" else [file]


def _shards_of(index: Path) -> list[Path]:
    """The shards that an index names."""
    folder = index.parent
    try:
        shards = sorted(set(read_json(index)["weight_map"].values()))
        outside = [shard for shard in shards if not is_beside(shard)]
        missing = [shard for shard in shards if not (folder / shard).is_file()]
    except (ValueError, KeyError, AttributeError, TypeError, OSError, RecursionError) as error:
        raise CheckpointCorrupt(f"{index} is not a weight index; delete it and download it again.") from error
    if outside:
        raise CheckpointCorrupt(
            f"{index} names {outside[0][:80]!r}, which is no file beside it; delete it and download it again."
        )
    if missing:
        others = sorted(
            path.name for path in folder.glob(f"*-of-*{Path(missing[0]).suffix}") if path.name not in shards
        )
        what_to_do = (
            f"it has {others[0]} instead, which is of another download; fetch the folder again."
            if others
            else "finish the download."
        )
        raise CheckpointMissing(
            f"{folder}: {len(missing)} of {len(shards)} weight files are missing (first: {missing[0]}); {what_to_do}"
        )
    return [folder / shard for shard in shards]


def _shards_without_index(folder: Path) -> list[Path]:
    """The shards of a folder that has lost its index, by their names; none where there are no such."""
    for kind in ("safetensors", "bin"):
        numbered = {path: _SHARD.fullmatch(path.name) for path in sorted(folder.glob(f"*-of-*.{kind}"))}
        found = {int(match[2]): path for path, match in numbered.items() if match}
        if found:
            count = max(int(match[3]) for match in numbered.values() if match)
            if missing := sorted(set(range(1, count + 1)) - found.keys()):
                raise CheckpointMissing(
                    f"{folder}: {len(missing)} of {count} weight files are missing (first: number {missing[0]}), and "
                    "their index; finish the download."
                )
            return list(found.values())
    return []


def _what_it_is(folder: Path) -> str:
    """The second half of a message: what is there instead, and what to do."""
    return next(_known(folder), None) or _listing(folder)


def _known(folder: Path) -> Iterator[str]:
    def first(*patterns: str) -> Path | None:
        return min((path for pattern in patterns for path in folder.glob(pattern)), default=None)

    if inner := first(*(f"{depth}{name}" for depth in ("*/", "snapshots/*/") for name in _FOLDER_FILES)):
        yield f"they are in {inner.parent}; give that folder."
    if file := first("*.gguf"):
        yield f"{file.name} is llama.cpp's format; {AS_RELEASED}"
    if file := first("*.onnx", "onnx/*.onnx"):
        yield f"{file.name} is an ONNX model; {AS_RELEASED}"
    if file := first("*.h5", "*.msgpack", "*.mlpackage", "*.tflite"):
        yield f"{file.name} is of another framework than PyTorch; {AS_RELEASED}"
    if file := first("consolidated.*", "params.json"):
        yield f"{file.name} is Meta's own format; get the same model in transformers' (its name ends in -hf)."
    if (folder / "latest").is_file() or first("global_step*"):
        yield (
            "it is a DeepSpeed checkpoint, to go on training from; the released form is what the training exports "
            "(of other trainings: the folder's zero_to_fp32.py)."
        )
    if (folder / "trainer_state.json").is_file():
        yield "it is a training checkpoint, to go on training from; the released form is what the training exports."
    if (folder / "adapter_config.json").is_file():
        yield "it is a LoRA adapter without its adapter_model.safetensors or .bin; finish its download."
    if file := first(*_UNFINISHED):
        yield f"{file.name} is an unfinished download; finish it."
    if file := first(*_ARCHIVES):
        yield f"{file.name} is an archive; unpack it."


def _listing(folder: Path) -> str:
    found = ", ".join(sorted(path.name for path in folder.iterdir())[:8])
    what_to_do = "give the folder with model*.safetensors or pytorch_model*.bin, or finish its download."
    return f"it has {found}; {what_to_do}" if found else f"it is empty; {what_to_do}"
