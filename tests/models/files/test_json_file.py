"""JSON of released folders: of any size on the disk, read within bounds."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import models.disk
from models.errors import CheckpointCorrupt
from models.files.json_file import json_values
from models.tensors.folders import weight_files


def test_a_file_without_end_is_not_read_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reserved room is as long as was asked for and costs nothing: a terabyte of zeros was read into memory."""
    monkeypatch.setattr(models.disk, "MAX_JSON", 100_000)
    config, index = tmp_path / "config.json", tmp_path / "model.safetensors.index.json"
    for file in (config, index):
        file.touch()
        os.truncate(file, 2**40)
    with pytest.raises(CheckpointCorrupt, match="longer than 100,000 characters"):
        json_values(config)
    with pytest.raises(CheckpointCorrupt, match="is not a weight index"):
        weight_files(tmp_path)
