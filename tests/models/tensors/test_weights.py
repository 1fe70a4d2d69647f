"""What `read_tensors` refuses: files that are no checkpoint at all, and weight indices that lead elsewhere."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

import models.tensors.weights
from models.errors import CheckpointCorrupt, NotEnoughMemory
from models.tensors.weights import read_tensors


@pytest.mark.parametrize(
    "page", ["\n<!DOCTYPE html>", "  <!doctype html><html>", "<HTML><HEAD><TITLE>Google Drive - Virus scan warning"]
)
def test_a_web_page_is_called_one(page: str, tmp_path: Path) -> None:
    (tmp_path / "a.pth").write_text(page)
    with pytest.raises(CheckpointCorrupt, match="is a web page"):
        read_tensors(tmp_path / "a.pth")


@given(st.binary(max_size=200) | st.text(max_size=80).map(str.encode) | st.binary(max_size=99).map(b"\x80\x02".__add__))
@example(b"a,b\n1,2\n")
@example(b"root:x:0:0\n")
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_garbage_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(CheckpointCorrupt) as error:
        read_tensors(tmp_path / "a.pth")
    assert "\n" not in str(error.value)
    assert "could run code" not in str(error.value) or content.startswith(b"\x80")


@pytest.mark.parametrize(
    "name", ["../secret.safetensors", "/tmp/x.safetensors", "sub/x", "..", "", "a\\b", "C:x", "a\0b"]
)
def test_a_name_that_leads_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    save_file({"a": torch.ones(1)}, tmp_path / "secret.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(CheckpointCorrupt, match=r"no file beside it|not a weight index") as refused:
        read_tensors(folder)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("content", ["[" * 100_000, "{}", '{"weight_map": 5}', '{"weight_map": {"a": 5}}', "\ud800"])
def test_what_is_no_index_is_one_line(tmp_path: Path, content: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_bytes(content.encode("utf-8", "surrogatepass"))
    with pytest.raises(CheckpointCorrupt, match="not a weight index"):
        read_tensors(tmp_path)


def test_a_name_that_is_too_long(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "x" * 5000}}))
    with pytest.raises(CheckpointCorrupt):
        read_tensors(tmp_path)


def test_a_pickle_that_holds_itself_is_refused(tmp_path: Path) -> None:
    file, content = tmp_path / "a.pth", dict[str, object]()
    content["model"] = content
    torch.save(content, file)
    with pytest.raises(CheckpointCorrupt, match="holds no state dict"):
        read_tensors(file)
    torch.save({"beside": 1, "module": {"model": {"state_dict": {"a": torch.ones(2)}}}}, file)
    assert list(read_tensors(file)) == ["a"]


def test_a_file_that_the_system_gives_no_room_for_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "a.safetensors")

    def load(*_: object) -> None:
        raise MemoryError("Cannot allocate memory (os error 12)")

    monkeypatch.setattr(models.tensors.weights, "load_file", load)
    with pytest.raises(NotEnoughMemory, match=r"a\.safetensors can't be read"):
        read_tensors(tmp_path / "a.safetensors")
