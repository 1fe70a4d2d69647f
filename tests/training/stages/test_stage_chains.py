"""The shipped configs one after the other, in miniature: every stage starts from the files that the one before left.

Of each config only the base models, the data and the number of steps are replaced. After every stage the exported files
are loaded as `demo.py` loads them and must give the logits of the model as training left it.
"""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from models.loader import load_model
from models.parts.sparse_moe import Router
from models.tensors.weights import read_tensors
from tests.paths import ROOT
from tests.training.runs import KeepModel, assert_same_answers
from tests.training.stages.tiny_bases import CLIP, SIGLIP, mgm_towers, write_base
from tests.training.tiny_stages import aligned_captions, case_values, conversations, draw_pictures, write_json
from training.recipe import load_recipe
from training.train import run_stage

CONFIGS = ROOT / "training" / "configs"
# Warned of by the libraries themselves, whatever is trained.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
ALIGNED = {"format": "cc_sbu_align", "annotations": "align", "batch_size": 2}
TALKED = {"format": "llava_conversation", "annotations": "conversation_58k.json", "images": "coco", "batch_size": 2}
DATASETS = {
    "image": [ALIGNED],
    "alignment": [ALIGNED],
    "instruction": [ALIGNED, TALKED],
    "plain": [{"format": "moe_llava", "annotations": "captions.json"}],
    "chat": [{"format": "moe_llava", "annotations": "captions.json"}, {"format": "moe_llava", "annotations": "x.json"}],
}


def write_data(folder: Path) -> None:
    """A few made examples of each kind."""
    aligned_captions(folder / "align")
    conversations(folder)
    draw_pictures(folder, ["a.png", "b.png", "c.png"])
    answer = {"from": "gpt", "value": "a red circle"}
    asked = {"from": "human", "value": "<image>\nwhat is it?"}
    captions = [{"id": name, "image": f"{name}.png", "conversations": [asked, answer]} for name in "abc"]
    write_json(folder / "captions.json", captions)
    texts = [{"id": n, "conversations": [{"from": "human", "value": "what is red?"}, answer]} for n in range(2)]
    write_json(folder / "x.json", texts)


def run_shrunk(name: str, root: Path, model: dict[str, Any], **fields: Any) -> Path:
    """Run a shipped config for two steps below `root`, which has `training/configs` and `output` as a checkout has.

    `model` replaces base models and sizes; what the config takes from an earlier stage's output stays as it is.
    Returns the exported eval config, checked against the trained model.
    """
    values = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    if not (root / "data").exists():
        write_data(root / "data")
    former = {key: value for key, value in values["model"].items() if str(value).startswith("../../output/")}
    values["model"] |= model | former
    if "model_fields" in values:
        values["model_fields"] |= fields
    values["data"] |= {"folder": str(root / "data"), "workers": 0, "batch_size": 2}
    values["data"]["datasets"] = DATASETS[values["text"]["prompt"]]
    values["schedule"] |= {"epochs": 1, "init_lr": 1e-3}
    if "steps_per_epoch" in values["schedule"]:
        values["schedule"] |= {"steps_per_epoch": 2, "warmup_steps": 1}
    values |= {"precision": "no", "deepspeed": None, "evaluation": {}, "tracker": "none", "gradient_accumulation": 1}
    values["output_dir"] = str(root / values["output_dir"])
    path = root / "training" / "configs" / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(values))
    keeper = KeepModel()
    result = run_stage(load_recipe(path), callbacks=[keeper])
    for module in keeper.model.modules():
        if isinstance(module, Router):
            module.noise = None  # training draws the second expert, the exported config does not
    is_folder = (result.parent / "model").is_dir()
    assert_same_answers(keeper.model, result, root, is_rounded=is_folder)
    return result


def checkpoint_of(result: Path) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = torch.load(result.parent / "checkpoint.pth")["model"]
    return tensors


def assert_moved(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> None:
    """The later stage has all tensors of the earlier one and goes on from their values."""
    assert before.keys() == after.keys()
    distances = {name: (after[name] - before[name]).abs().max().item() for name in before}
    assert max(distances.values()) > 0
    assert all(distance < 0.02 for distance in distances.values()), "drawn anew instead of trained on"


def base_values(case: str, *dropped: str) -> dict[str, Any]:
    """The base models and sizes of a recorded case."""
    left_out = {"family", "checkpoint", "lora_rank", "lora_alpha", "conversation", *dropped}
    return {key: value for key, value in case_values(case).items() if key not in left_out}


@pytest.mark.parametrize(("line", "case"), [("minigpt4_vicuna", "minigpt4-vicuna0"), ("minigpt4_llama2", "minigpt_v2")])
def test_minigpt4_stages_1_and_2(line: str, case: str, tmp_path: Path) -> None:
    first, second = (run_shrunk(f"{line}_stage{n}", tmp_path, base_values(case)) for n in (1, 2))
    assert_moved(checkpoint_of(first), checkpoint_of(second))


def test_minigpt_v2_stages_1_to_3(tmp_path: Path) -> None:
    results = [run_shrunk(f"minigpt_v2_stage{n}", tmp_path, base_values("minigpt_v2")) for n in (1, 2, 3)]
    for before, after in pairwise(results):
        assert_moved(checkpoint_of(before), checkpoint_of(after))
    assert any("lora_A" in name for name in checkpoint_of(results[0]))


def test_tinygptv_stages_1_to_4(tmp_path: Path) -> None:
    """Stage 4 looks at twice the resolution with another prompt, over the same released files."""
    results = []
    for stage in (1, 2, 3, 4):
        model = base_values("tinygptv-stage3", "image_size")
        results.append(
            run_shrunk(f"tinygptv_stage{stage}", tmp_path, model | {"image_size": 112 if stage == 4 else 56})
        )
    for before, after in pairwise(results):
        assert_moved(checkpoint_of(before), checkpoint_of(after))
    sizes = [load_model(r, device="cpu", report=None).image_processor.size for r in results]  # type: ignore[attr-defined]
    assert sizes == [56, 56, 56, 112]


@pytest.mark.parametrize(
    ("size", "base", "towers"),
    [("2b", "gemma", "2b"), ("7b", "llama", "7b"), ("8b", "llama3", "7b"), ("8x7b", "mixtral", "7b")],
)
def test_mini_gemini_stages_1_and_2_and_hd(size: str, base: str, towers: str, tmp_path: Path) -> None:
    """HD starts from the same stage 1, with four crops and the whole picture at twice the resolution."""
    source = write_base(base, tmp_path / "base")
    model = {"language_model": str(source), **mgm_towers(towers)}
    run_shrunk(f"mgm_{size}_stage1", tmp_path, model, image_size_aux=128)
    second = run_shrunk(f"mgm_{size}_stage2", tmp_path, model, image_size_aux=128)
    hd = run_shrunk(f"mgm_{size}_hd_stage2", tmp_path, model, image_size_aux=256)
    plain, fine = (load_model(result, device="cpu", report=None) for result in (second, hd))
    assert fine.num_image_tokens == 5 * plain.num_image_tokens
    before, after = read_tensors(source), read_tensors(second.parent / "model")
    assert before.keys() - after.keys() <= {"lm_head.weight"}, "the base model's own names, a tied head aside"
    language = {name for name in after if "vision_tower" not in name and "mm_projector" not in name}
    assert {name for name in language if "vlm_uni" not in name} <= before.keys()
    values = json.loads((second.parent / "model" / "config.json").read_text())
    assert values["model_type"] == {"gemma": "mgm_gemma", "mixtral": "mgm_mixtral"}.get(base, "mgm")


@pytest.mark.parametrize("backbone", ["phi2", "phi2_384", "stablelm", "qwen", "openchat"])
def test_moe_llava_stages_1_to_3(backbone: str, tmp_path: Path) -> None:
    """From the dense base model to one with four experts in every second layer."""
    kind = {"phi2": "phi", "phi2_384": "phi"}.get(backbone, backbone)
    source = write_base(kind, tmp_path / "base")
    model = {"language_model": str(source), "vision_tower": str(SIGLIP if "384" in backbone else CLIP)}
    run_shrunk(f"moe_llava_{backbone}_stage1", tmp_path, model)
    second = run_shrunk(f"moe_llava_{backbone}_stage2", tmp_path, model)
    third = run_shrunk(f"moe_llava_{backbone}_stage3", tmp_path, {})
    base, dense, sparse = (read_tensors(f) for f in (source, second.parent / "model", third.parent / "model"))
    assert base.keys() <= dense.keys(), "the base model's own names"
    values = json.loads((third.parent / "model" / "config.json").read_text())
    assert values["moe"]["moe_layers_idx"] == list(range(0, values["num_hidden_layers"], 2))
    routers = [tensor for name, tensor in sparse.items() if name.endswith("gate.wg.weight")]
    assert all(len(router) == 4 for router in routers)
    firsts = [name for name in sparse if "deepspeed_experts.0." in name]
    apart = [not torch.equal(sparse[name], sparse[name.replace("experts.0.", "experts.1.")]) for name in firsts]
    assert any(apart), "all experts start as copies of one feed-forward"
    attention = [name for name in dense if "attn" in name and "tower" not in name]
    assert attention
    assert all(torch.equal(dense[name], sparse[name]) for name in attention), "attention rests in stage 3"
