"""Values of config.json and of a checkpoint's own settings that change what is computed: honoured or refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from models.errors import CheckpointMismatch
from models.loader import load_model
from models.tensors.weights import read_tensors
from models.vision_language_model import VisionLanguageModel
from tests.paths import ROOT


def copied(name: str, folder: Path) -> Path:
    """A bundled model with its YAML, in a folder of its own."""
    shutil.copytree(ROOT / "checkpoints" / name, folder / name)
    return Path(shutil.copy(ROOT / "eval_configs" / f"{name}.yaml", folder))


def load(yaml: Path, *overrides: str) -> VisionLanguageModel:
    return load_model(yaml, device="cpu", overrides=overrides, report=None)


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("tiny_mini_gemini", "mm_use_im_start_end", True),
        ("tiny_mini_gemini", "mm_vision_select_feature", "cls_patch"),
        ("tiny_mini_gemini", "mm_projector_type", "linear"),
        ("tiny_mini_gemini", "mm_patch_merge_type", "spatial_unpad"),
        ("tiny_mini_gemini", "image_aspect_ratio", "anyres"),
        ("tiny_mini_gemini", "mm_vision_select_layer", 99),
        ("tiny_mini_gemini", "mm_vision_select_layer", "last"),
        ("tiny_moe_llava", "mm_use_im_start_end", True),
        ("tiny_moe_llava", "mm_vision_select_feature", "cls"),
        ("tiny_moe_llava", "image_projector_type", "mlp3x_gelu"),
        ("tiny_moe_llava", "image_aspect_ratio", "anyres"),
        ("tiny_moe_llava", "use_mm_proj", False),
    ],
)
def test_a_value_that_no_release_has_is_refused(name: str, key: str, value: Any, tmp_path: Path) -> None:
    yaml = copied(name, tmp_path)
    file = tmp_path / name / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {key: value}))
    with pytest.raises(Exception, match=r"config.json|mm_vision_select_layer") as error:
        load(yaml)
    assert "\n" not in str(error.value)
    assert type(error.value).__module__ == "models.errors"


def test_the_layer_of_the_tower_is_honoured(tmp_path: Path) -> None:
    yaml = copied("tiny_mini_gemini", tmp_path)
    file = tmp_path / "tiny_mini_gemini" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"mm_vision_select_layer": -4}))
    layers = [
        sum(name.endswith("layer_norm1.weight") for name in dict(load(path).vision_tower.named_parameters()))
        for path in (ROOT / "eval_configs" / "tiny_mini_gemini.yaml", yaml)
    ]
    assert layers[0] - layers[1] == 2


def test_the_checkpoints_own_alpha_is_honoured(tmp_path: Path) -> None:
    """Or refused, where the YAML says another."""
    yaml = copied("tiny_minigpt_v2", tmp_path)
    file = tmp_path / "tiny_minigpt_v2" / "minigptv2_checkpoint.pth"
    tensors = {name: tensor.clone() for name, tensor in read_tensors(file).items()}
    released = load(yaml).language_model.state_dict()
    torch.save({"model": tensors, "config": {"model": {"lora_alpha": 32, "lora_r": 8}}}, file)
    name = "model.layers.0.self_attn.q_proj.weight"
    assert not torch.equal(load(yaml).language_model.state_dict()[name], released[name])
    with pytest.raises(CheckpointMismatch, match=r"lora_alpha is 16, but .*minigptv2_checkpoint.pth says .* with 32"):
        load(yaml, "lora_alpha=16")
    torch.save({"model": tensors, "config": {"model": {"lora_alpha": 16}}}, file)
    assert torch.equal(load(yaml).language_model.state_dict()[name], released[name])
