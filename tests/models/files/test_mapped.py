"""Weights used from a mapped file: the file is known, its change is noticed, a copy needs it no more."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from models.files.mapped import FileWatch, copy_weights, mapped_files


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    save_file({"weight": torch.ones(2000, 2000)}, path)
    return path


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says what is mapped")
def test_a_copy_outlives_its_file(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    torch.save({"weight": torch.ones(500, 2000)}, path)
    module = nn.Linear(2000, 500, bias=False, device="meta")
    state = torch.load(path, mmap=True, weights_only=True)
    module.weight = nn.Parameter(state["weight"])
    assert mapped_files(module) == {path}
    assert copy_weights(module) == 1
    assert mapped_files(module) == set()
    path.write_bytes(b"")
    assert module.weight.sum().item() == 1_000_000


@pytest.mark.parametrize("change", ["truncate", "overwrite", "replace", "remove"])
def test_a_change_is_noticed(weights: Path, change: str) -> None:
    watch = FileWatch({weights})
    assert watch.changed() is None
    if change == "truncate":
        os.truncate(weights, 100)
    elif change == "overwrite":
        with weights.open("r+b") as file:
            file.write(b"x")
        os.utime(weights, ns=(1, 1))
    elif change == "replace":
        other = weights.with_suffix(".new")
        other.write_bytes(weights.read_bytes())
        other.replace(weights)
    else:
        weights.unlink()
    assert watch.changed() == weights


def test_a_model_of_its_own_is_left_alone() -> None:
    module = nn.Linear(3, 3)
    assert mapped_files(module) == set()
    assert copy_weights(module) == 0
