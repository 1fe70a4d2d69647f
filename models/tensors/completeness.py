"""Whether a part's tensors are the ones its module needs: names, sizes and kinds of number, both ways.

Every message names the tensor as it was released, and the file that it is in or should be in.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from models.disk import read_json
from models.errors import CheckpointMismatch
from models.tensors.folders import weights_file
from models.tensors.origins import Origin, origin_of
from models.tensors.weights import Part


def expected_shapes(module: nn.Module) -> dict[str, torch.Size]:
    """Name -> shape of every tensor a module must be given; a tied weight (saved once) is expected once."""
    tied = set(getattr(module, "all_tied_weights_keys", None) or ())
    return {name: tensor.shape for name, tensor in module.state_dict().items() if name not in tied}


def check_complete(part: Part, expected: Mapping[str, torch.Size]) -> None:
    """Raises CheckpointMismatch unless every parameter has a tensor of its size and every tensor a parameter."""
    missing = [part.origin_of_name(name) for name in sorted(expected.keys() - part.tensors.keys(), key=_natural)]
    extra = [origin(part, name) for name in sorted(part.tensors.keys() - expected.keys(), key=_natural)]
    if missing or extra:
        file = file_of((missing or extra)[0])
        problems = [
            f"{len(set(origins))} {what} (first: {_named(origins[0], file)})"
            for origins, what in ((missing, "parameters without weights"), (extra, "weights without parameters"))
            if origins
        ]
        raise CheckpointMismatch(f"{file}: does not fit the {part.name}: {', '.join(problems)}. {part.hint}".strip())
    for name, tensor in part.tensors.items():
        check_size(tensor, expected[name], owner=part.name, default=origin(part, name), hint=part.hint)
    _check_lora(part, expected)


def origin(part: Part, name: str) -> Origin:
    """Where a part's tensor comes from."""
    return origin_of(part.tensors[name], Origin(part.source, name))


def check_size(tensor: Tensor, shape: Iterable[int], *, owner: str, default: Origin, hint: str = "") -> None:
    """Raises CheckpointMismatch for a tensor of another size, or one that holds no real numbers of 16 bits or more.

    `owner` is what needs it; `default` names a tensor that came from no file.
    """
    found, shape = origin_of(tensor, default), torch.Size(shape)
    if tensor.shape != shape:
        raise CheckpointMismatch(
            f"{found} is {_size(tensor.shape)}, but the {owner} needs {_size(shape)}. {hint}".strip()
        )
    if not tensor.is_floating_point() or tensor.itemsize < 2:  # in 8 bits without the scales they mean little
        kind = str(tensor.dtype).removeprefix("torch.")
        wanted = "floating-point numbers of at least 16 bits"
        raise CheckpointMismatch(f"{found} is {kind}, but weights are {wanted}. {hint}".strip())


def _check_lora(part: Part, expected: Mapping[str, torch.Size]) -> None:
    for name, (lora_a, lora_b) in (part.lora.pairs if part.lora else {}).items():
        default = Origin(part.source, f"LoRA of {name}")
        if name not in expected:
            raise CheckpointMismatch(
                f"{origin_of(lora_a, default)}: the {part.name} has no {name} to update. {part.hint}".strip()
            )
        rank = lora_a.shape[0]
        check_size(lora_a, (rank, expected[name][1]), owner=part.name, default=default, hint=part.hint)
        check_size(lora_b, (expected[name][0], rank), owner=part.name, default=default, hint=part.hint)


def file_of(place: Origin) -> str:
    """The file that a tensor is or should be in: of a sharded folder, the shard that its index names."""
    path = Path(place.file)
    weights = weights_file(path) if path.is_dir() else None
    if weights is None:
        return place.file
    if weights.suffix != ".json":
        return str(weights)
    shard = read_json(weights)["weight_map"].get(place.name)
    return place.file if shard is None else str(path / shard)


def _named(place: Origin, file: str) -> str:
    """The name, with its file where that is not the one the message begins with."""
    return place.name if file_of(place) == file else f"{place.name} of {file_of(place)}"


def _size(shape: Iterable[int]) -> str:
    return "[" + ", ".join(map(str, shape)) + "]"


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(piece), "") if piece.isdigit() else (-1, piece) for piece in re.split(r"(\d+)", name)]
