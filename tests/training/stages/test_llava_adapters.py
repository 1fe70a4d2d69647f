"""Stage 2-lora of the LLaVA line: from nothing to an adapter's folder that loads again, and on from there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from models.errors import ConfigError
from models.tensors.weights import read_tensors
from tests.training.runs import KeepModel, assert_same_answers
from tests.training.tiny_stages import llava_recipe
from training.recipe import LoraRecipe
from training.train import run_stage

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
LORA = LoraRecipe(rank=4, alpha=8.0)


@pytest.mark.parametrize("case", ["mgm-7b", "moe-llava-stablelm"])
def test_an_adapter_is_trained_and_loads_again(case: str, tmp_path: Path) -> None:
    recipe = llava_recipe(tmp_path, case, "2-lora")
    recipe.__dict__["lora"] = LORA
    keeper = KeepModel()
    result = run_stage(recipe, callbacks=[keeper])
    assert_same_answers(keeper.model, result, tmp_path, is_rounded=False)
    folder = result.parent / "adapter"
    assert {path.name for path in folder.iterdir()} == {
        "adapter_config.json", "adapter_model.safetensors", "config.json", "non_lora_trainables.bin",
    }  # fmt: skip
    settings = json.loads((folder / "adapter_config.json").read_text())
    assert (settings["r"], settings["lora_alpha"], settings["peft_type"]) == (4, 8.0, "LORA")
    assert {"q_proj", "v_proj"} <= set(settings["target_modules"])
    tensors = read_tensors(folder / "adapter_model.safetensors")
    assert all(name.startswith("base_model.model.model.layers.") for name in tensors)
    assert not any("experts" in name for name in tensors)
    assert any(tensor.any() for name, tensor in tensors.items() if "lora_B" in name)
    full = read_tensors(folder / "non_lora_trainables.bin")
    assert all(name.startswith("base_model.model.model.") for name in full)
    assert any("mm_projector" in name for name in full)

    second = llava_recipe(tmp_path, case, "2-lora", output_dir=str(tmp_path / "second"))
    second.model["adapter"] = str(folder)
    result = run_stage(second, callbacks=[keeper])
    assert_same_answers(keeper.model, result, tmp_path, is_rounded=False)
    later = read_tensors(result.parent / "adapter" / "adapter_model.safetensors")
    assert later.keys() == tensors.keys()
    assert not all(torch.equal(later[name], tensor) for name, tensor in tensors.items())

    whole = llava_recipe(tmp_path, case, "2", output_dir=str(tmp_path / "third"))
    whole.model["adapter"] = str(folder)
    with pytest.raises(ConfigError, match=r"has LoRA, but this stage would lose it"):
        run_stage(whole)
