"""Any tensor of any recorded case, damaged in any way: one line that names it and its file, or nothing changes."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from models.config import family_module, load_config
from models.errors import MiniVLMError
from models.family_config import FamilyConfig
from models.files.released import ReleasedFiles
from models.loader import check_parts
from models.tensors.origins import Origin, made_from, origin_of, recorded
from models.tensors.tensor_reader import TensorReader
from models.tensors.weights import Part, Tensors, read_tensors
from tests.paths import GOLDENS

CASES = sorted(path.parent.name for path in GOLDENS.glob("*/config.yaml"))
NUM_TENSORS = 3  # of each case and for each kind of damage, drawn with a fixed seed
ELSEWHERE = "renamed.tensor"


def with_value(value: float) -> Callable[[Tensor], Tensor]:
    """One value of the tensor replaced."""

    def change(tensor: Tensor) -> Tensor:
        changed = tensor.clone()
        changed.view(-1)[-1] = value
        return changed

    return change


DAMAGES: dict[str, Callable[[Tensor], Tensor | None]] = {
    "removed": lambda _: None,
    "renamed": lambda tensor: tensor,
    "cut": lambda tensor: tensor[: len(tensor) // 2],
    "transposed": lambda tensor: tensor.mT.contiguous(),
    "doubled": lambda tensor: torch.cat((tensor, tensor)),
    "emptied": lambda tensor: tensor[:0],
    "one value": lambda tensor: tensor.reshape(-1)[0],
    "float64": lambda tensor: tensor.double(),
    "int8": lambda tensor: tensor.to(torch.int8),
    "float8": lambda tensor: tensor.to(torch.float8_e4m3fn),
    "complex": lambda tensor: tensor.float() + 0j,
    "NaN": with_value(float("nan")),
    "infinity": with_value(float("-inf")),
}


class DamagedFiles(ReleasedFiles):
    """The case's files with one tensor damaged; without `place` as they are. `places` are all that were read."""

    def __init__(self, config: FamilyConfig, place: Origin | None = None, damage: str = "") -> None:
        super().__init__(config)
        self.place, self.damage = place, damage
        self.places: dict[Origin, Tensor] = {}

    def tensors(self, key: str) -> Tensors:
        return self.read(self.path(key))

    def read(self, path: Path) -> Tensors:
        return dict(self._damaged(read_once(path)))

    def _damaged(self, tensors: Tensors) -> Iterator[tuple[str, Tensor]]:
        for name, tensor in tensors.items():
            place = origin_of(tensor, Origin("", ""))
            self.places[place] = tensor
            if place != self.place:
                yield name, tensor
            elif self.damage == "renamed":
                yield from recorded({ELSEWHERE: tensor.detach()}, place.file).items()
            elif (changed := DAMAGES[self.damage](tensor)) is not None:
                yield name, made_from(tensor, changed)[0]


@cache
def read_once(path: Path) -> Tensors:
    return read_tensors(path)


def loaded(files: DamagedFiles, config: FamilyConfig) -> dict[str, Any]:
    """All that a model is made of, checked as `load_model` does: each part's configuration and tensors."""
    parts: dict[str, Part] = family_module(config.family, source=config.source).parts(config, files)
    check_parts(parts)
    return {key: (str(part.config), TensorReader(part, torch.float32).read_all()) for key, part in parts.items()}


@cache
def undamaged(case: str) -> tuple[FamilyConfig, dict[str, Any], list[tuple[Origin, Tensor]]]:
    """A case's configuration, what it loads, and every tensor of the files it reads."""
    config = load_config(GOLDENS / case / "config.yaml")
    files = DamagedFiles(config)
    return config, loaded(files, config), sorted(files.places.items(), key=lambda item: item[0])


def is_same(found: Any, expected: Any) -> bool:
    """Equal in value; floating-point numbers may be wider."""
    if isinstance(expected, Tensor):
        return found.is_floating_point() and torch.equal(found.to(expected.dtype), expected)
    if isinstance(expected, dict):
        return found.keys() == expected.keys() and all(is_same(found[key], value) for key, value in expected.items())
    if isinstance(expected, tuple):
        return len(found) == len(expected) and all(map(is_same, found, expected))
    return bool(found == expected)


@pytest.mark.parametrize("case", CASES)
def test_a_damaged_tensor_is_named_with_its_file(case: str) -> None:
    config, expected, places = undamaged(case)
    draw, refused = random.Random(case), 0
    for damage in DAMAGES:
        can_change = [place for place, tensor in places if is_changed_by(damage, tensor)]
        for place in draw.sample(can_change, NUM_TENSORS):
            try:
                found = loaded(DamagedFiles(config, place, damage), config)
            except MiniVLMError as error:
                message, refused = str(error), refused + 1
                assert "\n" not in message
                # A renamed one is found as what is missing, or as what fits nothing.
                assert place.name in message or (damage == "renamed" and ELSEWHERE in message), f"{place}: {message}"
                assert place.file in message, f"{damage} {place}: {message}"
            else:
                assert is_same(found, expected), f"{damage} {place}: loads, and is another model"
    assert refused > len(DAMAGES) * NUM_TENSORS // 3  # the others are not used


def is_changed_by(damage: str, tensor: Tensor) -> bool:
    """Whether such a damage of it could be seen."""
    if damage == "transposed":
        return tensor.dim() > 1 and tensor.shape[-1] != tensor.shape[-2]
    return tensor.is_floating_point() and tensor.dim() > 0
