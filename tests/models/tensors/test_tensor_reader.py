"""Tensors read one at a time: what is copied, what is the file itself, and which pages stay in memory."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from models.tensors.loading_threads import loading_threads
from models.tensors.tensor_reader import TensorReader
from models.tensors.weights import Lora, Part, read_tensors
from tests.own_memory import own_and_mapped

VALUES = 2**23  # 16 MiB in 16 bits
BF16, CPU = torch.bfloat16, torch.device("cpu")
only_on_linux = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the system does not say what is mapped")


def reader_of(path: Path, dtype: torch.dtype = BF16, lora: Lora | None = None) -> TensorReader:
    """Of a file with `wide` [2^11, 2^12] and `small` [2, 3]."""
    torch.save({"wide": torch.arange(VALUES).view(2**11, 2**12) % 7 / 8, "small": torch.eye(2, 3).half()}, path)
    tensors = read_tensors(path)
    return TensorReader(
        Part(name="p", source=str(path), module_class=nn.Linear, config={}, tensors=tensors, lora=lora), dtype
    )


@only_on_linux
@pytest.mark.parametrize("dtype", [torch.float32, BF16], ids=str)
def test_pages_are_given_back_whatever_the_tensor_is_read_into(dtype: torch.dtype, tmp_path: Path) -> None:
    """The file's own format too: experts that are stacked are copied from it."""
    reader, result = reader_of(tmp_path / "file.pth", dtype), torch.zeros(VALUES, dtype=dtype)
    before = own_and_mapped()
    reader.read_into("wide", result)
    reader.read_copy("wide", dtype)
    after = own_and_mapped()
    assert after[1] - before[1] < 2**23  # of 32 MiB; some of it is code that ran for the first time
    assert torch.equal(result, (torch.arange(VALUES) % 7 / 8).to(dtype))


@only_on_linux
def test_a_tensor_in_the_right_format_is_the_file_and_its_pages_come_when_they_are_used(tmp_path: Path) -> None:
    reader = reader_of(tmp_path / "file.pth", torch.float32)
    before = own_and_mapped()
    tensor = reader.read_as("wide", torch.float32, CPU)
    assert own_and_mapped()[1] - before[1] < 2**23
    tensor.sum()
    assert own_and_mapped()[1] - before[1] > 0.9 * tensor.nbytes
    assert own_and_mapped()[0] - before[0] < 2**20


def test_a_copy_is_never_the_file(tmp_path: Path) -> None:
    reader = reader_of(tmp_path / "file.pth")
    assert reader.read_copy("small", torch.float16).fill_(5).unique().tolist() == [5]
    assert torch.equal(reader.read_copy("small", torch.float32), torch.eye(2, 3))


def test_a_lora_is_merged_on_the_way(tmp_path: Path) -> None:
    pair = (torch.ones(1, 3), torch.tensor([[1.0], [2.0]]))
    reader = reader_of(tmp_path / "file.pth", torch.float32, Lora(pairs={"small": pair}, alpha=2))
    expected = torch.eye(2, 3) + torch.tensor([[2.0], [4.0]])
    result = torch.zeros(6)
    reader.read_into("small", result)
    for found in (result.view(2, 3), reader.read_as("small", torch.float32, CPU), reader.read_copy("small", BF16)):
        assert torch.equal(found.float(), expected)


def test_every_row_gets_its_own_update(tmp_path: Path) -> None:
    """Some rows are merged at a time, by several threads."""
    lora_a, lora_b = torch.ones(1, 2**12), torch.arange(2.0**11).unsqueeze(1)
    reader = reader_of(tmp_path / "file.pth", torch.float32, Lora(pairs={"wide": (lora_a, lora_b)}, alpha=1))
    with loading_threads():
        found = reader.read("wide")
    assert torch.equal(found, torch.arange(VALUES).view(2**11, 2**12) % 7 / 8 + lora_b)
