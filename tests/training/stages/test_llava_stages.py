"""Stages of the LLaVA line: what they leave loads again and is what was trained, from the base models on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from models.families.mini_gemini import take_visual
from models.tensors.weights import read_tensors
from tests.training.runs import KeepModel, assert_same_answers
from tests.training.tiny_stages import GOLDENS, llava_recipe
from training.train import run_stage

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
FOLDERS = {
    "mgm-7b": "work_dirs/MGM/MGM-7B",
    "mgm-2b": "work_dirs/MGM/MGM-2B",
}


@pytest.mark.parametrize(
    ("case", "stage"), [("mgm-2b", "2"), ("mgm-7b", "2"), ("moe-llava-phi2", "3"), ("moe-llava-stablelm", "2")]
)
def test_a_whole_folder_trained_on_is_a_whole_folder_again(case: str, stage: str, tmp_path: Path) -> None:
    recipe = llava_recipe(tmp_path, case, stage)
    keeper = KeepModel()
    result = run_stage(recipe, callbacks=[keeper])
    assert_same_answers(keeper.model, result, tmp_path, is_rounded=True)
    before = read_tensors(Path(recipe.model["language_model"]))
    after = read_tensors(result.parent / "model")
    assert before.keys() - after.keys() <= {"lm_head.weight"}, "a tied head is not written twice"
    changed = {name for name, tensor in after.items() if not torch.equal(tensor, before[name].to(tensor.dtype))}
    is_mlp_only = stage == "3"
    assert any("mm_projector" in name for name in changed)
    assert any(".mlp." in name for name in changed)
    assert any("self_attn" in name for name in changed) != is_mlp_only
    assert not any("_tower" in name for name in changed)


def base_language_model(case: str, folder: Path) -> Path:
    """The language model of an MGM case alone, as its base model is published."""
    source = GOLDENS / case / "weights" / FOLDERS[case]
    folder.mkdir()
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("*.safetensors*", "config.json"), dirs_exist_ok=True)
    tensors = read_tensors(source)
    take_visual(tensors)
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, folder / "model.safetensors")
    values = json.loads((source / "config.json").read_text())
    own = {key: value for key, value in values.items() if not key.startswith(("mm_", "image_", "tokenizer_"))}
    (folder / "config.json").write_text(json.dumps(own | {"model_type": "llama"}))
    return folder


def test_mini_gemini_from_the_base_models_to_a_whole_folder(tmp_path: Path) -> None:
    """Stage 1 from nothing, its projector loaded again, stage 2 from that projector."""
    zoo = GOLDENS / "mgm-7b" / "weights" / "model_zoo" / "OpenAI"
    fields = {"image_size_aux": 128, "image_grid": 1, "image_global": False, "tokenizer_model_max_length": 2048}
    recipe = llava_recipe(tmp_path, "mgm-7b", "1", model_fields=fields | {"image_aspect_ratio": "square"})
    recipe.text.__dict__.update(prompt="plain", image_aspect_ratio="square")
    recipe.model.update(
        language_model=str(base_language_model("mgm-7b", tmp_path / "base")),
        vision_tower=str(zoo / "clip-vit-large-patch14-336"),
        vision_tower_aux=str(zoo / "openclip-convnext-large-d-320-laion2B-s29B-b131K-ft-soup"),
    )
    keeper = KeepModel()
    projector = run_stage(recipe, callbacks=[keeper])
    assert_same_answers(keeper.model, projector, tmp_path, is_rounded=False)
    released = read_tensors(GOLDENS / "mgm-7b" / "weights" / "work_dirs" / "MGM-7B-Pretrain" / "mm_projector.bin")
    names = {name for name in released if "vision_tower" not in name}
    assert read_tensors(projector.parent / "mm_projector.bin").keys() == names

    second = llava_recipe(tmp_path, "mgm-7b", "2", model_fields=fields, output_dir=str(tmp_path / "second"))
    second.model.update(recipe.model, projector=str(projector.parent / "mm_projector.bin"))
    result = run_stage(second, callbacks=[keeper])
    assert_same_answers(keeper.model, result, tmp_path, is_rounded=True)
    whole = read_tensors(GOLDENS / "mgm-7b" / "weights" / FOLDERS["mgm-7b"])
    assert read_tensors(result.parent / "model").keys() >= whole.keys() - {
        name for name in whole if ".vision_tower.vision_tower.vision_model.post_layernorm" in name
    }
