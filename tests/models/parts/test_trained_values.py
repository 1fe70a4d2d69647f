"""Values of config.json and of a checkpoint's own settings that change what is computed: honoured or refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from models.errors import CheckpointCorrupt, CheckpointMismatch
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


# Each family's folder with a config.json, and a name in which its older form says what the positions are turned by.
FAMILIES = {
    "tiny_minigpt_v2": "tiny_minigpt_v2/llama",
    "tiny_minigpt4": "tiny_minigpt4/vicuna",
    "tiny_tinygpt_v": "tiny_tinygpt_v/phi-2",
    "tiny_mini_gemini": "tiny_mini_gemini",
    "tiny_moe_llava": "tiny_moe_llava",
}


def changed(file: Path, **values: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


@pytest.mark.parametrize("name", FAMILIES)
def test_positions_that_are_said_twice_are_the_same_or_refused(name: str, tmp_path: Path) -> None:
    """transformers 5 writes rope_parameters and takes them, whatever rope_theta or rope_scaling say beside."""
    yaml = copied(name, tmp_path)
    file = tmp_path / FAMILIES[name] / "config.json"
    changed(file, rope_theta=20_000.0, rope_parameters={"rope_theta": 20_000.0, "rope_type": "default"})
    rope = load(yaml).language_model.config.rope_parameters
    assert rope["rope_theta"] == 20_000.0
    changed(file, rope_theta=10_000.0)
    with pytest.raises(CheckpointMismatch, match=r"rope_theta is 10000.0, but rope_parameters has rope_theta 20000.0"):
        load(yaml)


def test_scaling_beside_rope_parameters_keeps_both(tmp_path: Path) -> None:
    yaml = copied("tiny_mini_gemini", tmp_path)
    file = tmp_path / "tiny_mini_gemini" / "config.json"
    values = json.loads(file.read_text())
    values.pop("rope_theta", None)
    stated = {"rope_theta": 20_000.0, "rope_type": "linear", "factor": 2.0}
    file.write_text(json.dumps(values | {"rope_parameters": stated, "rope_scaling": {"type": "linear", "factor": 2.0}}))
    rope = load(yaml).language_model.config.rope_parameters
    assert (rope["rope_theta"], rope["rope_type"], rope["factor"]) == (20_000.0, "linear", 2.0)
    changed(file, rope_scaling={"type": "linear", "factor": 4.0})
    with pytest.raises(CheckpointMismatch, match=r"rope_scaling.factor is 4.0, but rope_parameters has factor 2.0"):
        load(yaml)
    changed(file, rope_scaling=None, rope_parameters={"full_attention": stated})
    with pytest.raises(CheckpointMismatch, match="for each kind of layer"):
        load(yaml)


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
    for broken in (float("nan"), "32", True):
        torch.save({"model": tensors, "config": {"model": {"lora_alpha": broken}}}, file)
        with pytest.raises(
            CheckpointCorrupt, match=rf"minigptv2_checkpoint.pth can't be used: its lora_alpha is {broken!r}"
        ):
            load(yaml)
    torch.save({"model": tensors, "config": {"model": {"lora_alpha": 16}}}, file)
    assert torch.equal(load(yaml).language_model.state_dict()[name], released[name])
