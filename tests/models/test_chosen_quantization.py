"""Quantization that is chosen where 16 bits do not fit, and what insists on something else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from models.config import load_config
from models.errors import NotEnoughMemory
from models.families import minigpt_v2
from models.files.released import ReleasedFiles
from models.loader import build_model, load_model
from models.memory.serving import size
from models.memory.sizes import weight_bytes
from models.vision_language_model import VisionLanguageModel
from tests.paths import GOLDENS

CASE = GOLDENS / "minigpt_v2" / "config.yaml"
BF16, FP32 = torch.bfloat16, torch.float32


def needed(dtype: torch.dtype, quantization: str) -> int:
    config = load_config(CASE)
    assert isinstance(config, minigpt_v2.Config)
    return weight_bytes(minigpt_v2.parts(config, ReleasedFiles(config)).values(), dtype, quantization)


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[VisionLanguageModel, str]]:
    """Load where there is six per cent more free memory than this format needs; the model, and what was said."""

    def load(fitting: torch.dtype, fitting_quantization: str, **options: Any) -> tuple[VisionLanguageModel, str]:
        said: list[str] = []
        monkeypatch.setattr("models.devices.free_bytes", lambda _: int(1.06 * needed(fitting, fitting_quantization)))
        # Beside the weights of so small a model, the images of all chats would be much.
        monkeypatch.setattr("models.memory.memory_plan.image_slots", lambda **_: 1)
        return load_model(CASE, device="cpu", report=said.append, **options), "\n".join(said)

    return load


Load = Callable[..., tuple[VisionLanguageModel, str]]


@pytest.mark.parametrize("options", [{"dtype": "bfloat16"}, {"dtype": "bfloat16", "quantization": "auto"}], ids=str)
def test_where_only_4_bits_fit_they_are_taken_and_one_line_says_so(load: Load, options: dict[str, str]) -> None:
    model, said = load(BF16, "4bit", **options)
    assert model.info.quantization == "4bit"
    (line,) = (line for line in said.splitlines() if "--quantization none" in line)
    assert f"in 16 bits its weights need {size(needed(BF16, 'none'))}" in line
    assert f"loaded in 4 bits ({size(needed(BF16, '4bit'))})" in line


def test_where_16_bits_fit_nothing_is_chosen(load: Load) -> None:
    model, said = load(BF16, "none", dtype="bfloat16")
    assert model.info.quantization == "none"
    assert "--quantization" not in said


def test_the_number_format_is_nobodys_to_choose(load: Load) -> None:
    """float32 does not fit, bfloat16 would: as before, that is advised and not done."""
    with pytest.raises(NotEnoughMemory, match="Try --options dtype=bfloat16, or"):
        load(BF16, "none", dtype="float32")


def test_none_by_name_insists(load: Load) -> None:
    with pytest.raises(NotEnoughMemory, match="Try --options quantization=4bit, or"):
        load(BF16, "4bit", dtype="bfloat16", quantization="none")


def test_nothing_is_chosen_for_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.devices.free_bytes", lambda _: int(1.06 * needed(BF16, "4bit")))
    config = load_config(CASE, ["device=cpu", "dtype=bfloat16"])
    with pytest.raises(NotEnoughMemory):
        build_model(config, report=None, keep_lora=True)
