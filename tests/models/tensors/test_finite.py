"""Weights that are not numbers, or too large for the number format, are refused with their name and file."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from models.errors import CheckpointCorrupt, CheckpointMismatch
from models.loader import load_model
from models.tensors.finite import check_finite
from models.tensors.origins import Origin
from tests.paths import GOLDENS

PLACE = Origin("some.pth", "a.weight")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_one_value_is_found_anywhere(value: float, dtype: torch.dtype) -> None:
    for index in (0, 4999, 9999):
        tensor = torch.randn(100, 100).to(dtype)
        tensor.view(-1)[index] = value
        with pytest.raises(CheckpointCorrupt, match=r"^some.pth: a.weight holds NaN or infinity; delete it"):
            check_finite(tensor, PLACE, torch.float32)
        with pytest.raises(CheckpointCorrupt):
            check_finite(tensor.T, PLACE, torch.float32)


def test_what_does_not_fit_float16_is_explained() -> None:
    tensor = torch.tensor([1.0, -70000.0])
    check_finite(tensor, PLACE, torch.float32)
    check_finite(tensor, PLACE, torch.bfloat16)
    check_finite(torch.tensor([65504.0, -65504.0]), PLACE, torch.float16)
    with pytest.raises(CheckpointMismatch, match=r"a.weight holds -7e\+04, .*too large for float16; use --dtype bf"):
        check_finite(tensor, PLACE, torch.float16)


def test_nothing_to_read_is_no_error() -> None:
    check_finite(torch.ones(0, 3), PLACE, torch.float16)
    check_finite(torch.ones(3, device="meta"), PLACE, torch.float16)
    check_finite(torch.ones(3).to(torch.float8_e4m3fn), PLACE, torch.float16)


def damaged(tmp_path: Path, name: str, value: float) -> Path:
    case = Path(shutil.copytree(GOLDENS / "minigpt_v2", tmp_path / "case"))
    file = case / "weights" / "minigptv2_checkpoint.pth"
    content = torch.load(file, weights_only=True)
    (found,) = (key for key in content["model"] if key.endswith(name))
    content["model"][found].view(-1)[0] = value
    torch.save(content, file)
    return case / "config.yaml"


@pytest.mark.parametrize("name", ["llama_proj.bias", "layers.0.self_attn.q_proj.lora_B.weight"])
@pytest.mark.parametrize("keep_lora", [False, True])
def test_a_checkpoint_with_nan_does_not_load(tmp_path: Path, name: str, keep_lora: bool) -> None:
    yaml = damaged(tmp_path, name, float("nan"))
    with pytest.raises(CheckpointCorrupt, match=rf"minigptv2_checkpoint.pth: .*{name} holds NaN or infinity"):
        load_model(yaml, device="cpu", keep_lora=keep_lora, report=None)


def test_a_value_too_large_for_float16_names_the_tensor(tmp_path: Path) -> None:
    yaml = damaged(tmp_path, "llama_proj.weight", 1e6)
    load_model(yaml, device="cpu", dtype="bfloat16", report=None)
    with pytest.raises(CheckpointMismatch, match=r"checkpoint.pth: llama_proj.weight holds 1e\+06, .*--dtype bfloat16"):
        load_model(yaml, device="cpu", dtype="float16", report=None)


def test_quantized_weights_are_checked_before_they_are_packed(tmp_path: Path) -> None:
    yaml = damaged(tmp_path, "layers.1.self_attn.v_proj.lora_A.weight", float("inf"))
    with pytest.raises(CheckpointCorrupt, match=r"lora_A.weight holds NaN or infinity"):
        load_model(yaml, device="cpu", quantization="4bit", report=None)
