"""What tests of `verify` share."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from models.fetching import checkpoints
from tests.models.inspection.verifying import TINY
from tests.paths import ROOT


@pytest.fixture
def tinygpt_v(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the bundled TinyGPT-V and its YAML; the bundled one itself is not found."""
    monkeypatch.setattr(checkpoints, "CHECKPOINTS_DIR", tmp_path / "checkpoints")
    shutil.copytree(TINY / "tiny_tinygpt_v", tmp_path / "tiny_tinygpt_v")
    return Path(shutil.copy(ROOT / "eval_configs" / "tiny_tinygpt_v.yaml", tmp_path))
