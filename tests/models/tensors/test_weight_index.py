"""The names in a weight index: files beside it, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from models.errors import CheckpointCorrupt
from models.tensors.weights import read_tensors


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
