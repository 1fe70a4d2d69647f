"""A model folder is whole or not there: a disk that fills up leaves nothing half-written."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest
import torch

from models.errors import ConfigError
from models.tensors.weights import read_tensors
from training.stages import stage_files


def save(folder: Path, value: float) -> None:
    tokenizer = folder.parent / "tokenizer"
    tokenizer.mkdir(exist_ok=True)
    (tokenizer / "tokenizer.json").write_text("{}")
    tensors = {"a": torch.full((4,), value)}
    stage_files.save_model_folder(tensors, {"x": 1}, folder, tokenizer_from=tokenizer, dtype=torch.float32)


def test_a_full_disk_is_one_line_and_the_next_try_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "model"
    save(folder, 1.0)

    def full(tensors: Any, path: Path, **_: Any) -> None:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(stage_files, "save_file", full)
        with pytest.raises(ConfigError, match="No space left") as failed:
            save(folder, 2.0)
    assert "\n" not in str(failed.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "tokenizer"]
    assert read_tensors(folder)["a"].tolist() == [1.0] * 4
    save(folder, 3.0)
    assert read_tensors(folder)["a"].tolist() == [3.0] * 4
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors", "tokenizer.json"]
