"""Tensors that are computed when needed, and pages of files that are given back: values never change by it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from models.parts.phi import interleaved_rows, split_interleaved
from models.tensors.deferred import DeferredTensor, computed, deferred, release
from tests.own_memory import own_and_mapped

ROWS = torch.arange(24.0).view(12, 2)
VALUES = 2**22  # 16 MiB
only_on_linux = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the system does not say what is mapped")


def test_a_deferred_tensor_is_computed_whenever_it_is_used() -> None:
    calls = []

    def half(rows: Tensor) -> Tensor:
        calls.append(rows.device.type)
        return rows[::2].half()

    tensor = deferred(half, ROWS)
    assert (tensor.shape, tensor.dtype, tensor.device.type, calls) == ((6, 2), torch.float16, "cpu", ["meta"])
    assert torch.equal(tensor, ROWS[::2].half())
    assert type(tensor.float()) is type(tensor[...]) is type(computed(tensor)) is Tensor
    assert calls == ["meta"] + 4 * ["cpu"]


def test_of_a_deferred_tensor_another_can_be_made() -> None:
    doubled = deferred(lambda rows: rows * 2, deferred(lambda rows: rows[:1], ROWS))
    assert computed(doubled).tolist() == [[0, 2]]
    assert computed(ROWS) is ROWS


def test_a_form_that_is_known_is_not_asked_for() -> None:
    """What reads a file by name has no sources to be asked with."""
    calls: list[int] = []
    tensor = deferred(lambda: calls.append(1) or ROWS, form=torch.empty(12, 2, device="meta"))  # type: ignore[func-returns-value]
    assert (tensor.shape, tensor.device.type, calls) == ((12, 2), "cpu", [])
    assert torch.equal(tensor + 0, ROWS)
    assert calls == [1]


@pytest.mark.parametrize("index", range(3))
def test_a_third_of_interleaved_rows(index: int) -> None:
    assert torch.equal(interleaved_rows(ROWS, num_heads=2, index=index), split_interleaved(ROWS, num_heads=2)[index])


def mapped(kind: str, folder: Path) -> Tensor:
    """A tensor of 16 MiB that is a file of this kind."""
    tensor = torch.arange(VALUES, dtype=torch.float32)
    if kind == "safetensors":
        save_file({"tensor": tensor}, folder / "file")
        return load_file(folder / "file")["tensor"]
    torch.save({"tensor": tensor}, folder / "file")
    content: dict[str, Tensor] = torch.load(folder / "file", mmap=True, weights_only=True)
    return content["tensor"]


@only_on_linux
@pytest.mark.parametrize("kind", ["safetensors", "torch"])
@pytest.mark.parametrize("is_deferred", [False, True])
def test_pages_of_a_file_are_given_back_and_read_again(kind: str, is_deferred: bool, tmp_path: Path) -> None:
    tensor = mapped(kind, tmp_path)
    total = tensor.sum(dtype=torch.float64)
    before = own_and_mapped()[1]
    release(deferred(lambda source: source * 2, tensor) if is_deferred else tensor)
    assert before - own_and_mapped()[1] > 0.9 * tensor.nbytes
    assert torch.equal(tensor.sum(dtype=torch.float64), total)


@only_on_linux
def test_what_is_no_file_is_left_alone(tmp_path: Path) -> None:
    """Memory of the process's own, and a mapping that was written to: giving these back would lose what they hold."""
    own, changed = torch.ones(VALUES), mapped("torch", tmp_path)
    changed += 1
    release(own, changed, torch.ones(3), torch.empty(4, device="meta"))
    assert own.min() == 1
    assert changed[VALUES // 2] == VALUES // 2 + 1


def test_a_deferred_tensor_stays_one_without_values() -> None:
    """On meta, where checkpoints are checked, nothing is computed either."""
    tensor = deferred(lambda rows: rows[:4], torch.empty(12, 2, device="meta"))
    assert isinstance(tensor, DeferredTensor)
    assert (tensor.device.type, tensor.shape) == ("meta", (4, 2))
