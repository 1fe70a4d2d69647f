"""Every training config that ships, and what a wrong one gets."""

from __future__ import annotations

from pathlib import Path

import pytest

from models.errors import ConfigError
from training.recipe import load_recipe
from training.schedule import MinigptSchedule
from training.stage_files import model_config
from training.stages import family_training
from training.trainer import schedule_factor

CONFIGS = sorted((Path(__file__).parents[2] / "training" / "configs").glob("*.yaml"))
SIZES = ("2b", "7b", "8b", "13b", "34b", "8x7b")
BACKBONES = ("phi2", "phi2_384", "stablelm", "stablelm_384", "qwen", "openchat")


def test_there_is_a_config_for_every_stage() -> None:
    wanted = {f"minigpt4_{llm}_stage{stage}" for llm in ("vicuna", "llama2") for stage in (1, 2)}
    wanted |= {f"minigpt_v2_stage{stage}" for stage in (1, 2, 3)}
    wanted |= {f"tinygptv_stage{stage}" for stage in (1, 2, 3, 4)}
    wanted |= {f"mgm_{size}_{stage}" for size in SIZES for stage in ("stage1", "stage2", "hd_stage2")}
    wanted |= {f"moe_llava_{backbone}_stage{stage}" for backbone in BACKBONES for stage in (1, 2, 3)}
    wanted |= {f"tiny_{family}" for family in ("minigpt4", "minigpt_v2", "tinygpt_v", "mini_gemini", "moe_llava")}
    assert {path.stem for path in CONFIGS} == wanted


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_loads(path: Path) -> None:
    recipe = load_recipe(path)
    family_training(recipe)
    config = model_config(recipe, {} if "projector" in recipe.model else {"name": "x"} | _checkpoint(recipe.family))
    assert config.family == recipe.family
    assert schedule_factor(recipe, 1000)(500) > 0
    assert recipe.output_dir == f"output/{path.stem}"
    assert recipe.deepspeed is None or (path.parent / recipe.deepspeed).is_file()
    before = recipe.model.get("checkpoint") or recipe.model.get("projector") or recipe.model["language_model"]
    if "output/" in before:
        assert (path.parent / f"{before.split('/')[3]}.yaml").is_file(), "starts from a stage that has a config"


def _checkpoint(family: str) -> dict[str, str]:
    return {} if family in ("mini_gemini", "moe_llava") else {"checkpoint": "x"}


def test_the_originals_hyper_parameters() -> None:
    """The figures of the fact sheets' tables, for one config of each kind."""
    by_name = {path.stem: load_recipe(path) for path in CONFIGS}
    stage4 = by_name["tinygptv_stage4"].schedule
    rates = stage4.init_lr, stage4.min_lr, stage4.warmup_lr
    assert rates == (1e-5, 8e-5, 1e-6)
    assert (stage4.warmup_steps, stage4.epochs, stage4.steps_per_epoch) == (1000, 50, 1000)
    v2 = by_name["minigpt_v2_stage3"]
    assert sum(dataset.ratio for dataset in v2.data.datasets) == 730
    assert len(v2.data.datasets) == 22
    assert (v2.lora.rank, v2.lora.alpha, v2.lora.dropout) == (64, 16.0, 0.05)
    assert v2.text.template.format("x ") == "[INST] x  [/INST]"
    vicuna = by_name["minigpt4_vicuna_stage2"]
    assert (vicuna.text.template, vicuna.text.answer_end) == ("###Human: {} ###Assistant: ", "###")
    yi = by_name["mgm_34b_stage2"]
    assert yi.optimiser.lr_factors == {"model.mm_projector": 2.0, "model.vlm_uni": 2.0}
    assert (yi.schedule.init_lr, yi.optimiser.weight_decay, yi.data.mixing) == (1e-5, 0.0, "by_length")
    openchat = by_name["moe_llava_openchat_stage3"]
    assert (openchat.data.batch_size, openchat.gradient_accumulation) == (4, 4)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("precision=fp8", "precision is 'fp8'; choose one of no, fp16, bf16"),
        ("schedule.kind=flat", r"schedule\.kind is 'flat'"),
        ("schedule.steps_per_epoch=0", "steps_per_epoch must be above 0"),
        ("data.mixing=shuffle", "belong together"),
        ("data.datasets=[]", "datasets is empty"),
        ("data.datasets=[{format: coco, annotations: x, batch_size: 1}]", "unknown data format 'coco'; known: laion"),
        ("data.datasets=[{format: gqa, annotations: x}]", "gqa needs a ratio and a batch_size above 0"),
        ("data.datasets=[{format: gqa}]", r"data: datasets\[0\]: missing key 'annotations'"),
        ("colour=red", "unknown key 'colour'"),
        ("text.max_tokens=many", "max_tokens is 'many'; it must be int"),
        ("model={}", r"model\.family is missing"),
    ],
)
def test_wrong_configs(option: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_recipe(CONFIGS[0].parent / "minigpt4_vicuna_stage1.yaml", [option])


def test_a_family_without_training_or_prompt() -> None:
    path = CONFIGS[0].parent / "minigpt4_vicuna_stage1.yaml"
    with pytest.raises(ConfigError, match="there is training for mini_gemini, minigpt4"):
        family_training(load_recipe(path, ["model.family=other"]))
    with pytest.raises(ConfigError, match="minigpt4 has image, alignment, instruction"):
        family_training(load_recipe(path, ["text.prompt=chat"]))


def test_the_schedule_of_a_recipe_is_the_original_one() -> None:
    recipe = load_recipe(CONFIGS[0].parent / "minigpt4_vicuna_stage1.yaml")
    factor = schedule_factor(recipe, 20000)
    expected = MinigptSchedule(
        init_lr=1e-4, min_lr=8e-5, warmup_lr=1e-6, warmup_steps=5000, epochs=4, steps_per_epoch=5000
    )
    assert [factor(step) for step in (0, 4999, 5000)] == [expected.lr(step) / 1e-4 for step in (0, 4999, 5000)]
