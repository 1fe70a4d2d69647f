"""Released files -> named tensors for our modules: lazy reading, renaming by rules, and completeness both ways."""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from models.errors import CheckpointCorrupt, CheckpointMismatch, CheckpointMissing

Tensors = dict[str, Tensor]

# Where a folder's weights are, the first that is there; what `transformers` itself would take.
_FOLDER_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "mm_projector.bin",
)
_CAST_VALUES = 2**18  # converted at a time: 1 MiB in fp32, which a core's own cache holds
_PICKLE_STARTS = (b"PK", b"\x80")  # torch's zip files, and bare pickles of protocol 2 and later


@dataclass(frozen=True)
class Rename:
    """One step from a released name to ours: a regex and its replacement; applied in order, all that match."""

    pattern: str
    replacement: str


@dataclass(frozen=True)
class Drop:
    """Released tensors that are not used, with the reason."""

    pattern: str
    why: str


@dataclass(frozen=True, kw_only=True)
class Lora:
    """Low-rank updates of some linear weights: name of the weight -> (A [rank, in], B [out, rank])."""

    pairs: Mapping[str, tuple[Tensor, Tensor]]
    alpha: float

    @property
    def rank(self) -> int:
        """The inner width, read from the tensors."""
        return int(next(iter(self.pairs.values()))[0].shape[0])


@dataclass(frozen=True, kw_only=True)
class Part:
    """One module and the released tensors it is loaded from, before anything is allocated.

    `config` is the transformers configuration for a transformers class, or the keyword arguments of a plain module.
    `released_shapes` turns the module's names and shapes into the released ones, where transformers itself converts
    while it loads. `is_quantizable`: 8-bit and 4-bit loading apply to this part. `hint` completes a wrong-size message.
    """

    name: str
    source: str
    module_class: type[nn.Module]
    config: Any
    tensors: Tensors
    lora: Lora | None = None
    is_quantizable: bool = False
    hint: str = ""
    released_shapes: Callable[[dict[str, torch.Size]], dict[str, torch.Size]] | None = None


def read_tensors(path: Path) -> Tensors:
    """All tensors of a `.pth`/`.bin`/`.safetensors` file or of a sharded folder, memory-mapped, by released name.

    `.pth` files may wrap the state dict in {"model": …} (LAVIS, MiniGPT runners). Pickles are opened with
    `weights_only`: code inside is refused. Raises CheckpointMissing or CheckpointCorrupt.
    """
    if path.is_dir():
        return _read_folder(path)
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise CheckpointCorrupt(f"{path} can't be read ({error}); download it again.") from error
    return _read_pickle(path)


def _read_folder(folder: Path) -> Tensors:
    for name in _FOLDER_FILES:
        if (folder / name).is_file():
            return _read_shards(folder / name) if name.endswith(".json") else read_tensors(folder / name)
    found = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"
    raise CheckpointMissing(
        f"{folder} holds no model weights (model*.safetensors or pytorch_model*.bin); found {found}."
    )


def _read_shards(index: Path) -> Tensors:
    folder = index.parent
    try:
        shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        missing = [shard for shard in shards if not (folder / shard).is_file()]
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise CheckpointCorrupt(f"{index} is not a weight index; download it again.") from error
    if missing:
        raise CheckpointMissing(
            f"{folder}: {len(missing)} of {len(shards)} weight files are missing (first: {missing[0]}); "
            "finish the download."
        )
    return {name: tensor for shard in shards for name, tensor in read_tensors(folder / shard).items()}


def _read_pickle(path: Path) -> Tensors:
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(256)
    if head.strip().lower().startswith((b"version https://git-lfs", b"<!doctype", b"<html", b"<?xml")):
        raise CheckpointCorrupt(f"{path} is a web page or a git-lfs pointer, not weights; download the file itself.")
    try:
        # Only zip files (torch >= 1.6) can be memory-mapped.
        content = torch.load(path, map_location="cpu", mmap=head.startswith(b"PK"), weights_only=True)
    except Exception as error:  # bytes that are no pickle lead the unpickler to anything
        if isinstance(error, pickle.UnpicklingError) and head.startswith(_PICKLE_STARTS):
            raise CheckpointCorrupt(
                f"{path} contains Python objects beside tensors and was not opened, because they could run code. "
                "Get it from the official source, or re-save only its tensors."
            ) from error
        raise CheckpointCorrupt(
            f"{path} ({size:,} bytes) is no PyTorch checkpoint, or truncated or damaged; download it again."
        ) from error
    if isinstance(content, dict) and isinstance(content.get("model"), dict):
        content = content["model"]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise CheckpointCorrupt(f"{path} holds no state dict (names -> tensors); is it the right file?")
    return content


def rename(tensors: Mapping[str, Tensor], rules: Sequence[Rename | Drop]) -> Tensors:
    """Apply rules to every name; tensors that a `Drop` matches are left out."""
    renamed: Tensors = {}
    for released_name, tensor in tensors.items():
        name: str | None = released_name
        for rule in rules:
            if isinstance(rule, Drop):
                if re.search(rule.pattern, released_name):
                    name = None
                    break
            elif name is not None:
                name = re.sub(rule.pattern, rule.replacement, name)
        if name is not None:
            renamed[name] = tensor
    return renamed


def first_layers(tensors: Mapping[str, Tensor], prefix: str, count: int) -> Tensors:
    """The tensors without those of the layers `…prefix.N.…` from number `count` on, whose output is not used."""
    numbered = re.compile(rf"(?:^|\.){re.escape(prefix)}(\d+)\.")
    return {
        name: tensor
        for name, tensor in tensors.items()
        if (match := numbered.search(name)) is None or int(match[1]) < count
    }


def take_prefix(tensors: Tensors, prefix: str) -> Tensors:
    """Remove and return the tensors whose name starts with `prefix`, without it."""
    return {name.removeprefix(prefix): tensors.pop(name) for name in list(tensors) if name.startswith(prefix)}


def take_lora(tensors: Tensors, *, prefix: str, alpha: float) -> Lora | None:
    """Remove and return the LoRA pairs of a checkpoint, keyed by the weight they update; None if there are none.

    Accepts peft's older names (`…lora_A.weight`, peft 0.2) and newer ones (`…lora_A.default.weight`).
    """
    pattern = re.compile(rf"^{re.escape(prefix)}(.+)\.lora_([AB])(?:\.default)?\.weight$")
    halves: dict[str, dict[str, Tensor]] = {}
    for name in list(tensors):
        if match := pattern.match(name):
            halves.setdefault(f"{match[1]}.weight", {})[match[2]] = tensors.pop(name)
    if not halves:
        return None
    if broken := [name for name, pair in halves.items() if pair.keys() != {"A", "B"}]:
        raise CheckpointMismatch(f"LoRA of {broken[0]} has only one of its two matrices; the checkpoint is incomplete.")
    return Lora(pairs={name: (pair["A"], pair["B"]) for name, pair in halves.items()}, alpha=alpha)


def check_lora_rank(lora: Lora, wanted: int | None, *, source: str) -> None:
    """Raises CheckpointMismatch if a configuration names another rank than the tensors have."""
    if wanted not in (None, lora.rank):
        raise CheckpointMismatch(
            f"{source}: its LoRA has rank {lora.rank}, but lora_rank is {wanted}; leave that key out."
        )


def merge_lora(weight: Tensor, lora_a: Tensor, lora_b: Tensor, *, alpha: float) -> Tensor:
    """W + alpha/rank * B @ A in fp32; [out, in]. Source: peft, `LoraLayer.get_delta_weight` (arXiv:2106.09685)."""
    return weight.float() + (alpha / lora_a.shape[0]) * (lora_b.float() @ lora_a.float())


def converted(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """The tensor in a number format; itself if it has that already.

    torch converts between the two half formats one value at a time, but each to and from fp32 with vector instructions:
    on a CPU the way over fp32, which holds both exactly, takes a third of the time if it stays in the cache.
    """
    is_between_halves = {tensor.dtype, dtype} == {torch.float16, torch.bfloat16}
    if not (is_between_halves and tensor.device.type == "cpu" and tensor.is_contiguous()):
        return tensor.to(dtype)
    result = torch.empty_like(tensor, dtype=dtype)
    chunk = torch.empty(min(_CAST_VALUES, tensor.numel()))
    for source, target in zip(tensor.view(-1).split(_CAST_VALUES), result.view(-1).split(_CAST_VALUES), strict=True):
        target.copy_(chunk[: len(source)].copy_(source))
    return result


def expected_shapes(module: nn.Module) -> dict[str, torch.Size]:
    """Name -> shape of every tensor a module must be given; a tied weight (saved once) is expected once."""
    tied = set(getattr(module, "all_tied_weights_keys", None) or ())
    return {name: tensor.shape for name, tensor in module.state_dict().items() if name not in tied}


def check_complete(part: Part, expected: Mapping[str, torch.Size]) -> None:
    """Raises CheckpointMismatch unless every parameter has a tensor of its size and every tensor a parameter."""
    missing, extra = expected.keys() - part.tensors.keys(), part.tensors.keys() - expected.keys()
    if missing or extra:
        problems = [
            f"{len(names)} {what} (first: {min(names, key=_natural)})"
            for names, what in ((missing, "parameters without weights"), (extra, "weights without parameters"))
            if names
        ]
        raise CheckpointMismatch(
            f"{part.source}: does not fit the {part.name}: {', '.join(problems)}. {part.hint}".strip()
        )
    for name, tensor in part.tensors.items():
        if tensor.shape != expected[name]:
            raise CheckpointMismatch(
                f"{part.source}: {name} is {_size(tensor.shape)}, but the {part.name} needs {_size(expected[name])}. "
                f"{part.hint}".strip()
            )
    for name, (lora_a, lora_b) in (part.lora.pairs if part.lora else {}).items():
        if name not in expected or torch.Size((lora_b.shape[0], lora_a.shape[1])) != expected[name]:
            needs = _size(expected[name]) if name in expected else "no such weight"
            raise CheckpointMismatch(
                f"{part.source}: the LoRA of {name} is for [{lora_b.shape[0]}, {lora_a.shape[1]}], "
                f"but the {part.name} has {needs}. {part.hint}".strip()
            )


def _size(shape: Iterable[int]) -> str:
    return "[" + ", ".join(map(str, shape)) + "]"


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(piece), "") if piece.isdigit() else (-1, piece) for piece in re.split(r"(\d+)", name)]
