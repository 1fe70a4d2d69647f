"""Every training config that ships, and what a wrong one gets."""

from __future__ import annotations

from pathlib import Path

import pytest

from models.errors import ConfigError
from tests.paths import ROOT
from training.families import family_training
from training.recipe import load_recipe
from training.stages.schedule import MinigptSchedule
from training.stages.stage_files import model_config
from training.stages.stage_trainer import schedule_factor

CONFIGS = sorted((ROOT / "training" / "configs").glob("*.yaml"))
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


# Rates (highest, lowest, at the start), warm-up steps, epochs x steps, longest answer, what ends it.
MINIGPT = {
    "minigpt4_vicuna_stage1": (1e-4, 8e-5, 1e-6, 5000, 4, 5000, 32, "\n"),
    "minigpt4_llama2_stage1": (1e-4, 8e-5, 1e-6, 5000, 4, 5000, 32, "\n"),
    "minigpt4_vicuna_stage2": (3e-5, 1e-5, 1e-6, 200, 5, 200, 160, "###"),
    "minigpt4_llama2_stage2": (3e-5, 1e-5, 1e-6, 200, 5, 200, 160, "</s>"),
    "minigpt_v2_stage3": (1e-5, 1e-6, 1e-6, 1000, 50, 1000, 1024, "</s>"),
    "tinygptv_stage1": (1e-4, 8e-5, 1e-6, 1000, 1, 5000, 32, "\n"),
    "tinygptv_stage2": (1e-4, 8e-5, 1e-6, 5000, 4, 5000, 32, "\n"),
    "tinygptv_stage3": (3e-5, 1e-5, 1e-6, 200, 5, 200, 160, "###"),
    "tinygptv_stage4": (1e-5, 8e-5, 1e-6, 1000, 50, 1000, 1024, "###"),
}
# Sampling ratio and batch per device.
PAIRS = {"laion": (115, 64), "cc_sbu": (14, 64)}
REFERS = {name: (25, 6) for name in ("refcoco", "refcocop", "refcocog")}
INSTRUCTIONS = {
    "multitask_conversation": (50, 2), "llava_conversation": (30, 2), "unnatural_instruction": (10, 1),
    "refvg": (40, 6), "llava_detail": (20, 4), "llava_reason": (80, 4), "flickr_grounded_caption": (80, 2),
    "flickr_CaptionToPhrase": (80, 2), "flickr_ObjectToPhrase": (80, 2), "coco_caption": (10, 6),
    "textcaps_caption": (30, 6), **REFERS, **{f"inv{name}": (10, 6) for name in REFERS}, "coco_vqa": (15, 6),
    "ok_vqa": (8, 6), "aok_vqa": (12, 6), "gqa": (50, 6), "ocrvqa": (30, 6),
}  # fmt: skip
MIXTURES = {
    **dict.fromkeys(("minigpt4_vicuna_stage1", "minigpt4_llama2_stage1", "tinygptv_stage1", "tinygptv_stage2"), PAIRS),
    "minigpt4_vicuna_stage2": {"cc_sbu_align": (1, 12)},
    "minigpt4_llama2_stage2": {"cc_sbu_align": (1, 12)},
    "tinygptv_stage3": {"cc_sbu_align": (1, 6)},
    "minigpt_v2_stage3": INSTRUCTIONS,
    "tinygptv_stage4": INSTRUCTIONS | {"unnatural_instruction": (10, 2)},
}
# Batch per device, accumulated batches, DeepSpeed's file, longest sequence.
MGM = {
    "2b": ((8, 4, "zero2_offload", 2048), (8, 2, "zero2", 2048), (4, 1, "zero2", 4096)),
    "7b": ((16, 1, "zero2_offload", 2048), (8, 1, "zero2_offload", 2048), (4, 1, "zero2", 4096)),
    "8b": ((16, 1, "zero2_offload", 2048), (8, 1, "zero2_offload", 2048), (4, 2, "zero3", 4096)),
    "13b": ((8, 1, "zero2", 2048), (4, 1, "zero2", 2048), (4, 1, "zero2", 4096)),
    "34b": ((8, 1, "zero3", 2048), (4, 1, "zero3", 2048), (4, 1, "zero3", 4096)),
    "8x7b": ((8, 1, "zero3", 2048), (4, 1, "zero3", 2048), (4, 1, "zero3", 4096)),
}
MOE = ((32, 1, "zero2", 2048), (8, 2, "zero2", 2048), (8, 2, "zero2", 2048))


@pytest.mark.parametrize("name", MINIGPT)
def test_the_minigpt_lines_tables(name: str) -> None:
    recipe = load_recipe(CONFIGS[0].parent / f"{name}.yaml")
    plan = recipe.schedule
    rates = plan.init_lr, plan.min_lr, plan.warmup_lr
    text = recipe.text.max_tokens, recipe.text.answer_end
    assert (*rates, plan.warmup_steps, plan.epochs, plan.steps_per_epoch, *text) == MINIGPT[name]
    mixture = {data.format: (data.ratio, recipe.batch_size_of(data)) for data in recipe.data.datasets}
    assert mixture == MIXTURES[name]
    assert (recipe.optimiser.weight_decay, recipe.optimiser.beta2, recipe.precision) == (0.05, 0.999, "fp16")
    assert (plan.kind, recipe.gradient_accumulation, recipe.seed) == ("minigpt", 1, 42)


@pytest.mark.parametrize("size", SIZES)
def test_mini_geminis_table(size: str) -> None:
    for stage, figures in zip(("stage1", "stage2", "hd_stage2"), MGM[size], strict=True):
        rate = 1e-3 if stage == "stage1" else 1e-5 if size in ("34b", "8x7b") else 2e-5
        _check_llava(f"mgm_{size}_{stage}", rate, figures)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_moe_llavas_table(backbone: str) -> None:
    for stage, figures in enumerate(MOE, start=1):
        is_large = backbone == "openchat" and stage == 3
        own = (4, 4, *figures[2:]) if is_large else figures
        _check_llava(f"moe_llava_{backbone}_stage{stage}", 1e-3 if stage == 1 else 2e-5, own)


def _check_llava(name: str, rate: float, figures: tuple[int, int, str, int]) -> None:
    recipe = load_recipe(CONFIGS[0].parent / f"{name}.yaml")
    (batch,) = {recipe.batch_size_of(data) for data in recipe.data.datasets}
    assert recipe.deepspeed is not None
    found = batch, recipe.gradient_accumulation, Path(recipe.deepspeed).stem, recipe.text.max_tokens
    assert found == figures, name
    plan = recipe.schedule
    assert (plan.kind, plan.init_lr, plan.warmup_ratio, plan.epochs) == ("warmup_cosine", rate, 0.03, 1)
    assert (recipe.optimiser.weight_decay, recipe.optimiser.beta2, recipe.precision) == (0.0, 0.999, "bf16")
    first = name.endswith("stage1")
    assert recipe.data.mixing == ("shuffle" if first else "by_length")
    assert recipe.text.image_aspect_ratio == ("square" if first else "pad")
    assert recipe.gradient_checkpointing


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("precision=fp8", "precision is 'fp8'; choose one of no, fp16, bf16"),
        ("schedule.kind=flat", r"schedule\.kind is 'flat'"),
        ("schedule.steps_per_epoch=0", "steps_per_epoch must be above 0"),
        ("data.mixing=shuffle", "belong together"),
        ("data.datasets=[]", "datasets is empty"),
        ("data.datasets=[{format: gqa, annotations: x}]", "gqa needs a ratio and a batch_size above 0"),
        ("data.datasets=[{format: gqa}]", r"data: datasets\[0\]: missing key 'annotations'"),
        ("text.image_aspect_ratio=pads", "text.image_aspect_ratio is 'pads'; choose one of pad, square"),
        ("gradient_accumulation=0", "gradient_accumulation is 0; it must be 1 or more"),
        ("schedule.epochs=0", "schedule.epochs is 0; it must be 1 or more"),
        ("schedule.epochs=-1", "schedule.epochs is -1"),
        ("seed=-1", "seed is -1; it must be 0 or more"),
        ("schedule.init_lr=0.0", "schedule.init_lr is 0.0; it must be 1e-12 or more"),
        ("schedule.init_lr=.nan", "schedule.init_lr is nan"),
        ("schedule.min_lr=.inf", "schedule.min_lr is inf"),
        ("save_every_steps=0", "save_every_steps is 0"),
        ("data.workers=-1", r"data\.workers is -1"),
        ("evaluation.num_batches=0", r"evaluation\.num_batches is 0"),
        ("lora.rank=0", r"lora\.rank is 0"),
        ("optimiser.beta2=1.0", r"optimiser\.beta2 is 1\.0; it must be 0 or more and below 1\."),
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
