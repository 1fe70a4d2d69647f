"""Names, shapes and number formats of all tensors in a file or folder, without reading the numbers."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from models.errors import CheckpointCorrupt, MiniVLMError
from models.files.adapters import FULL_FILE, WEIGHTS_FILES, is_adapter_folder
from models.files.json_file import json_values
from models.tensors.folders import weight_files, weights_file
from models.tensors.foreign import packed_by, refuse_foreign, refuse_special
from models.tensors.state_dicts import (
    beside_weights,
    is_state_dict,
    load_pickle,
    plain_names,
    read_state_dict,
    unwrapped,
)

_SAFETENSORS_NAMES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16",
    "I64": "int64", "I32": "int32", "I8": "int8", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip


@dataclass(frozen=True)
class TensorHeader:
    """A tensor's shape, and its number format as torch calls it."""

    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Headers:
    """What is known of a file or folder. `size` is in bytes; `remarks` say what is unusual; `problem` what is wrong."""

    path: Path
    size: int
    tensors: Mapping[str, TensorHeader] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    problem: str = ""

    @property
    def dtypes(self) -> str:
        """The number formats, the most frequent first."""
        return dtypes_of(self.tensors)


def dtypes_of(tensors: Mapping[str, TensorHeader]) -> str:
    """The number formats, the most frequent first."""
    return ", ".join(name for name, _ in Counter(tensor.dtype for tensor in tensors.values()).most_common())


def read_headers(path: Path) -> Headers:
    """The headers of a file, or of all weight files of a folder. A damaged one has a `problem`, and no tensors."""
    headers = _read(path)
    if headers.tensors or headers.problem:
        return headers
    return replace(headers, problem=f"{path} holds no tensors; delete it and download it again.")


def _read(path: Path) -> Headers:
    try:
        if path.is_dir():
            return _folder_headers(path)
        refuse_special(path)
        size = path.stat().st_size
        if path.suffix == ".safetensors":
            return Headers(path, size, _safetensors_header(path))
        return Headers(path, size, *_pickle_header(path))
    except MiniVLMError as error:
        return Headers(path, _size_of(path), problem=str(error))
    except OSError as error:
        return Headers(path, 0, problem=f"{path} can't be read ({error.strerror}).")


def quantized_by(headers: Headers) -> str:
    """The program that has quantized a folder's weights, by its config.json, else by their names; "" for none."""
    file = headers.path / "config.json"
    stated = json_values(file).get("quantization_config") if file.is_file() else None
    method = stated.get("quant_method") if isinstance(stated, dict) else None
    return str(method) if method else packed_by(headers.tensors)


def _size_of(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def _folder_headers(folder: Path) -> Headers:
    remarks = []
    if (folder / "adapter_config.json").is_file():
        values = json_values(folder / "adapter_config.json")
        remarks.append(f"a LoRA adapter of {values.get('base_model_name_or_path')}, rank {values.get('r')}")
    if (folder / "trainer_state.json").is_file():
        step = json_values(folder / "trainer_state.json").get("global_step")
        remarks.append(f"a training checkpoint of step {step}, to go on training from")
    adapter = next((f for f in map(folder.joinpath, WEIGHTS_FILES) if f.is_file()), None)
    if is_adapter_folder(folder) and adapter is not None:
        files = [adapter, *(file for file in [folder / FULL_FILE] if file.is_file())]
    else:
        files = weight_files(folder)
        if weights_file(folder) is None:
            remarks.append("shards without their index, which loading does without")
    tensors: dict[str, TensorHeader] = {}
    for header in map(_read, files):  # one of many may be empty: what an adapter has trained in full
        if header.problem:
            raise CheckpointCorrupt(header.problem)
        tensors |= header.tensors
        remarks += [remark for remark in header.remarks if remark not in remarks]
    return Headers(folder, _size_of(folder), tensors, tuple(remarks))


def _safetensors_header(path: Path) -> dict[str, TensorHeader]:
    """The JSON at a file's beginning. Raises CheckpointCorrupt where it is none, or promises more bytes than come."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        text = file.read(length) if 0 < length <= size - 8 else b""
    try:
        tensors, end = parse_safetensors(text)
    except ValueError as error:
        refuse_foreign(path, reads="safetensors")
        raise CheckpointCorrupt(
            f"{path} ({size:,} bytes) is no safetensors file; delete it and download it again."
        ) from error
    if 8 + length + end != size:
        raise CheckpointCorrupt(
            f"{path} has {size:,} bytes, but its header promises {8 + length + end:,}; delete it and download it again."
        )
    return tensors


def parse_safetensors(text: bytes) -> tuple[dict[str, TensorHeader], int]:
    """The tensors of a safetensors header, and the bytes of values that follow it. Raises ValueError."""
    try:
        entries = {name: entry for name, entry in json.loads(text).items() if name != "__metadata__"}
        end = max((entry["data_offsets"][1] for entry in entries.values()), default=0)
        tensors = {
            name: TensorHeader(tuple(entry["shape"]), _SAFETENSORS_NAMES.get(entry["dtype"], entry["dtype"]))
            for name, entry in entries.items()
        }
    except (RecursionError, AttributeError, KeyError, TypeError, IndexError) as error:
        raise ValueError("no safetensors header") from error
    return tensors, end


def _pickle_header(path: Path) -> tuple[dict[str, TensorHeader], tuple[str, ...]]:
    content = load_pickle(path)
    remarks = []
    if beside := beside_weights(content):
        remarks.append(f"beside the weights: {', '.join(beside[:6])}{', …' * (len(beside) > 6)}")
    names = _outer_names(content)
    if names and all(name.startswith("module.") for name in names):
        remarks.append("names begin with module. (DataParallel), which loading takes off")
    elif list(plain_names(names)) != names:
        remarks.append("names have parts of wrappers in them (torch.compile, FSDP), which loading takes off")
    tensors = read_state_dict(path)
    return {
        name: TensorHeader(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))
        for name, tensor in tensors.items()
    }, tuple(remarks)


def _outer_names(content: object) -> list[str]:
    inner = unwrapped(content)
    return list(inner) if is_state_dict(inner) else []
