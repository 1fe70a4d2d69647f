"""Released files by key: which folders count as a tower, and what a model folder says about itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from models.config import load_config
from models.errors import ConfigError
from models.fetching.checkpoints import find_near
from models.files.released import ReleasedFiles


@pytest.fixture
def files(tmp_path: Path) -> ReleasedFiles:
    """Those of a Mini-Gemini whose folder is `tmp_path / "model"`."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model.yaml").write_text("family: mini_gemini\nlanguage_model: model\n")
    return ReleasedFiles(load_config(tmp_path / "model.yaml"))


@pytest.mark.parametrize(
    ("name", "has_weights"),
    [
        ("model.safetensors", True),
        ("model.safetensors.index.json", True),
        ("pytorch_model.bin", True),
        ("pytorch_model.bin.index.json", True),
        ("config.json", False),
        ("training_args.bin", False),
    ],
)
def test_a_folder_of_configuration_files_has_no_weights(
    files: ReleasedFiles, tmp_path: Path, name: str, has_weights: bool
) -> None:
    assert not files.has_weights(tmp_path / "model")
    (tmp_path / "model" / name).touch()
    assert files.has_weights(tmp_path / "model") == has_weights


def test_the_trained_context_is_2048_where_config_json_does_not_say(files: ReleasedFiles, tmp_path: Path) -> None:
    for values, expected in (({}, 2048), ({"tokenizer_model_max_length": 1}, 1)):
        (tmp_path / "model" / "config.json").write_text(json.dumps(values))
        assert files.trained_context() == expected
    (tmp_path / "model" / "config.json").write_text(json.dumps({"tokenizer_model_max_length": -1}))
    with pytest.raises(ConfigError, match="max_length is -1; it must be a positive whole number"):
        files.trained_context()


def test_a_tower_is_found_near_the_model(tmp_path: Path) -> None:
    deep = tmp_path / "a" / "b" / "c" / "d"
    deep.mkdir(parents=True)
    (tmp_path / "towers" / "clip").mkdir(parents=True)
    (deep / "clip.pth").touch()
    assert find_near("towers/clip", deep) == tmp_path / "towers" / "clip"  # four levels up
    assert find_near("towers/clip", deep / "e") is None  # five
    (tmp_path / "a" / "clip").mkdir()
    assert find_near("towers/clip", deep) == tmp_path / "a" / "clip"  # the nearest, by its last part
    assert find_near("clip.pth", deep) is None
