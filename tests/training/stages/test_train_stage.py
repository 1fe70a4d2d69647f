"""A stage from beginning to end: resuming after a kill, released files, what learns, groups, schedules."""

from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from PIL import Image

from models.conversation import Turn
from models.errors import ConfigError
from models.grounding import Box, Region
from models.loader import load_model
from tests.paths import ROOT
from tests.training.runs import KeepModel, StopAt, Stopped, losses
from tests.training.tiny_stages import GOLDENS, draw_pictures, tiny_recipe
from training.batch_trainer import latest_checkpoint
from training.data.readers import open_image
from training.families import family_training
from training.stages.sample_answers import draw_regions
from training.stages.schedule import MinigptSchedule, warmup_cosine
from training.stages.stage_trainer import parameter_groups
from training.train import main, run_stage

SCHEDULES = json.loads((ROOT / "tests" / "data" / "text_and_schedule.json").read_text())["lr_schedule"]
# Warned of by the libraries themselves, whatever is trained.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    run_stage(tiny_recipe(folder, "minigpt_v2", stage="3"))
    return folder


@pytest.mark.parametrize("step", [2, 5])
def test_a_resumed_run_has_the_losses_of_an_uninterrupted_one(step: int, uninterrupted: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path, "minigpt_v2", stage="3")
    with pytest.raises(Stopped):
        run_stage(recipe, callbacks=[StopAt(step)])
    run_stage(recipe, resume=True)
    assert losses(tmp_path) == losses(uninterrupted)
    assert len(set(losses(tmp_path))) == 6
    ours, whole = (torch.load(folder / "output" / "final" / "checkpoint.pth") for folder in (tmp_path, uninterrupted))
    assert ours["model"].keys() == whole["model"].keys()
    for name, tensor in ours["model"].items():
        assert torch.equal(tensor, whole["model"][name]), name


@pytest.mark.slow
def test_a_run_that_is_killed_while_it_saves_goes_on(python: list[str], uninterrupted: Path, tmp_path: Path) -> None:
    """SIGKILL as soon as the second checkpoint's folder is there: it may be complete or not."""
    recipe = tiny_recipe(tmp_path, "minigpt_v2", stage="3")
    command = [*python, "-m", "training", "--cfg-path", str(recipe.source)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        second = tmp_path / "output" / "checkpoints" / "checkpoint-2"
        while process.poll() is None and not second.exists():
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.communicate()  # until nobody writes any more
    found = latest_checkpoint(tmp_path / "output")
    assert found is not None
    run_stage(recipe, resume=True)
    assert losses(tmp_path) == losses(uninterrupted)


def test_gradient_checkpointing_changes_no_loss(uninterrupted: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path, "minigpt_v2", stage="3", gradient_checkpointing=True)
    with pytest.raises(Stopped):
        run_stage(recipe, callbacks=[StopAt(4)])
    assert losses(tmp_path, step=3) == pytest.approx(losses(uninterrupted)[:3], rel=1e-5)


def test_sample_answers_touch_no_generator(uninterrupted: Path, tmp_path: Path) -> None:
    settings = {"every_steps": 1, "num_answers": 2, "max_new_tokens": 4}
    recipe = tiny_recipe(tmp_path, "minigpt_v2", stage="3", evaluation=settings, tracker="tensorboard")
    with pytest.raises(Stopped):
        run_stage(recipe, callbacks=[StopAt(4)])
    assert losses(tmp_path, step=3) == losses(uninterrupted)[:3]
    folder = tmp_path / "output" / "samples" / "step-000002"
    assert "expected: " in (folder / "answers.md").read_text()
    assert {path.name for path in folder.iterdir()} == {"answers.md", "0.png", "1.png"}
    assert any((tmp_path / "output" / "logs").iterdir())


def test_the_loss_on_held_out_data_touches_no_generator(uninterrupted: Path, tmp_path: Path) -> None:
    dataset = {"format": "cc_sbu_align", "annotations": "align", "batch_size": 2}
    settings = {"every_steps": 1, "datasets": [dataset], "num_batches": 2, "num_answers": 0}
    recipe = tiny_recipe(tmp_path, "minigpt_v2", stage="3", evaluation=settings)
    with pytest.raises(Stopped):
        run_stage(recipe, callbacks=[StopAt(4)])
    assert losses(tmp_path, step=3) == losses(uninterrupted)[:3]
    state = json.loads((tmp_path / "output/checkpoints/checkpoint-3/trainer_state.json").read_text())
    held_out = {entry["step"]: entry["eval_loss"] for entry in state["log_history"] if "eval_loss" in entry}
    assert held_out.keys() == {1, 2, 3}
    assert held_out[3] < held_out[1], "training on these very captions makes them likelier"


def test_boxes_are_drawn_where_they_are() -> None:
    regions = [Region("ball", Box(0.5, 0.5, 1.0, 1.0))]
    picture = draw_regions(Image.new("RGB", (101, 51)), regions)
    colour = (0xE6, 0x9F, 0x00)
    assert [picture.getpixel(place) for place in ((50, 40), (100, 40), (75, 50))] == [colour] * 3
    assert picture.getpixel((20, 20)) == (0, 0, 0)


def test_an_incomplete_checkpoint_is_passed_over(tmp_path: Path) -> None:
    for step, text in ((9, '{"global_step": 9}'), (10, '{"global_st'), (11, None)):
        folder = tmp_path / "checkpoints" / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        (folder / "trainable.safetensors").touch()
        if text is not None:
            (folder / "trainer_state.json").write_text(text)
    found = latest_checkpoint(tmp_path)
    assert found is not None
    assert found.name == "checkpoint-9"


def test_a_second_run_in_the_same_folder_must_say_what_it_wants(
    uninterrupted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--cfg-path", str(uninterrupted / "recipe.yaml")]) == 2
    assert "add --resume or choose another output_dir" in capsys.readouterr().err
    assert main(["--cfg-path", str(uninterrupted / "recipe.yaml"), "--resume", "--options", "output_dir=nowhere"]) == 2
    assert "no checkpoint in nowhere" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("case", "stage"),
    [("minigpt4-vicuna0", "1"), ("minigpt_v2", "3"), ("tinygptv-stage3", "3"), ("tinygptv-stage4", "4")],
)
@pytest.mark.parametrize("from_nothing", [False, True], ids=["from checkpoint", "from nothing"])
def test_what_training_leaves_loads_and_is_what_was_trained(
    case: str, stage: str, from_nothing: bool, tmp_path: Path
) -> None:
    """Two steps, then the exported files through the ordinary loader: the same logits."""
    recipe = tiny_recipe(tmp_path, case, stage=stage, schedule={"epochs": 1, "steps_per_epoch": 2})
    if from_nothing:
        del recipe.model["checkpoint"]
        recipe.model.pop("lora_rank", None)
        recipe.lora.__dict__["rank"] = 3
    keeper = KeepModel()
    result = run_stage(recipe, callbacks=[keeper])
    trained, loaded = keeper.model.eval(), load_model(result, device="cpu", report=None)
    draw_pictures(tmp_path, ["picture.png"])
    turns = [Turn("user", "what is this?", (open_image(tmp_path / "picture.png"),))]
    with torch.inference_mode():
        expected, actual = (
            model.language_model(inputs_embeds=model.embed_prompt(turns)[None]).logits for model in (trained, loaded)
        )
    assert (expected - actual).abs().max() < 1e-4
    if not from_nothing:
        start = load_model(GOLDENS / case / "config.yaml", device="cpu", report=None)
        with torch.inference_mode():
            before = start.language_model(inputs_embeds=start.embed_prompt(turns)[None]).logits
        assert (before - actual).abs().max() > 1e-3, "training changed nothing"


@pytest.mark.parametrize(("case", "stage"), [("minigpt4-vicuna0", "2"), ("minigpt_v2", "3"), ("tinygptv-stage4", "4")])
def test_exactly_what_the_original_trains_is_exported(case: str, stage: str, tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path, case, stage=stage, schedule={"epochs": 1, "steps_per_epoch": 1})
    run_stage(recipe)
    exported = torch.load(tmp_path / "output" / "final" / "checkpoint.pth")["model"]
    record = json.loads((GOLDENS / case / "training.json").read_text())
    names = record.get("trainable") or [parameter["name"] for parameter in record["trainable_parameters"]]
    assert sorted(exported) == sorted(names)


def test_weight_decay_and_learning_rate_groups(tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path, "minigpt_v2", stage="3", optimiser={"lr_factors": {"llama_proj": 2.0}})
    named = {
        "connector.projection.weight": torch.nn.Parameter(torch.zeros(2, 2)),
        "connector.projection.bias": torch.nn.Parameter(torch.zeros(2)),
        "language_model.model.layers.0.self_attn.q_proj.lora_A.default.weight": torch.nn.Parameter(torch.zeros(2, 2)),
        "language_model.model.norm.weight": torch.nn.Parameter(torch.zeros(2)),
    }
    groups = parameter_groups(recipe, named, family_training(recipe).released_name)
    found = {(group["weight_decay"], group["lr"]): len(group["params"]) for group in groups}
    assert found == {(0.05, 2e-3): 1, (0.0, 2e-3): 1, (0.05, 1e-3): 1, (0.0, 1e-3): 1}


@pytest.mark.parametrize("name", SCHEDULES)
def test_recorded_schedules(name: str) -> None:
    config = SCHEDULES[name]["config"]
    schedule = MinigptSchedule(
        init_lr=config["init_lr"],
        min_lr=config["min_lr"],
        warmup_lr=config["warmup_start_lr"],
        warmup_steps=config["warmup_steps"],
        epochs=config["max_epoch"],
        steps_per_epoch=config["iters_per_epoch"],
    )
    for epoch, step, lr in SCHEDULES[name]["epoch_step_lr"]:
        assert schedule.lr(epoch * config["iters_per_epoch"] + step) == pytest.approx(lr, rel=1e-12)


def test_a_schedule_without_warmup_rate_starts_at_the_top_and_may_rise() -> None:
    rising = MinigptSchedule(init_lr=1e-5, min_lr=8e-5, warmup_lr=-1, warmup_steps=2, epochs=1, steps_per_epoch=10)
    assert [rising.lr(step) for step in (0, 1)] == [1e-5, 1e-5]
    rates = [rising.lr(step) for step in range(2, 10)]
    assert rates == sorted(rates)
    assert rates[-1] < 8e-5


def test_warmup_cosine() -> None:
    factor = warmup_cosine(100, 0.03)
    assert [factor(step) for step in (0, 1, 2, 3)] == pytest.approx([0.0, 1 / 3, 2 / 3, 1.0])
    assert factor(3 + 97 // 2) == pytest.approx(0.5, abs=0.01)
    assert factor(100) == pytest.approx(0.0, abs=1e-12)


def test_tinygptv_without_lora_as_in_the_paper(tmp_path: Path) -> None:
    one_step = {"epochs": 1, "steps_per_epoch": 1}
    recipe = tiny_recipe(tmp_path, "tinygptv-stage3", stage="1-without-lora", schedule=one_step)
    with pytest.raises(ConfigError, match="has LoRA, but this stage would lose it"):
        run_stage(recipe)
    del recipe.model["checkpoint"], recipe.model["lora_rank"]
    recipe = dataclasses.replace(recipe, output_dir=str(tmp_path / "new"))
    result = run_stage(recipe)
    exported = torch.load(result.parent / "checkpoint.pth")["model"]
    assert "llama_model.model.layers.0.self_attn.q_layernorm.weight" in exported
    assert not any("lora" in name or "base_model" in name for name in exported)
    load_model(result, device="cpu", report=None)


def test_a_stage_the_family_does_not_have(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="stage is '7'; minigpt_v2 has 1, 2, 3"):
        run_stage(tiny_recipe(tmp_path, "minigpt_v2", stage="7"))
