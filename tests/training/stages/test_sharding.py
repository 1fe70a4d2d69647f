"""FSDP over two processes, and the configuration that DeepSpeed would be given."""

from __future__ import annotations

import json
import shutil
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
from accelerate.utils.deepspeed import HfDeepSpeedConfig  # type: ignore[import-untyped]
from torch import nn
from transformers.integrations.deepspeed import HfTrainerDeepSpeedConfig

from models.errors import ConfigError
from models.loader import load_model
from tests.paths import ROOT
from tests.training.ranks import run_in_ranks
from tests.training.runs import losses
from tests.training.tiny_stages import GOLDENS, llava_recipe, tiny_recipe
from training.batch_trainer import latest_checkpoint
from training.data.mixture import training_batches
from training.data.prompts import BatchSide
from training.data.readers import make_example
from training.families.mini_gemini import PROMPTS, STAGES
from training.recipe import LoraRecipe, load_recipe
from training.stages.sharding import has_parts_only, is_sharded
from training.stages.stage_model import Stage, StageModel
from training.stages.stage_trainer import StageTrainer, deepspeed_file, training_arguments
from training.train import main, run_stage

CONFIGS = ROOT / "training" / "configs"
# Warned of by the libraries themselves, whatever is trained.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


with_deepspeed = pytest.mark.skipif(
    find_spec("deepspeed") is None, reason="DeepSpeed is not installed: pip install -r requirements-zero.txt"
)

# MoE-LLaVA over StableLM: without dropout, which draws other numbers in two processes than in one.
EXPERTS = ("moe-llava-stablelm", "3")


def answers(folder: Path) -> list[str]:
    """What was answered after the second step and the fourth."""
    written = sorted((folder / "output" / "samples").glob("*/answers.md"))
    assert len(written) == 2
    return [file.read_text() for file in written]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("program", "option", "case", "stage"),
    [
        ("fsdp_on_cpu", "fsdp=true", "mgm-7b", "2"),
        ("fsdp_on_cpu", "fsdp=true", *EXPERTS),
        pytest.param("deepspeed_on_cpu", "deepspeed=zero2.json", "mgm-7b", "2", marks=with_deepspeed),
        pytest.param("deepspeed_on_cpu", "deepspeed=zero2.json", *EXPERTS, marks=with_deepspeed),
        pytest.param("deepspeed_on_cpu", "deepspeed=zero2_offload.json", "mgm-7b", "2", marks=with_deepspeed),
        pytest.param("deepspeed_on_cpu", "deepspeed=zero3.json", "mgm-7b", "2", marks=with_deepspeed),
        pytest.param("deepspeed_on_cpu", "deepspeed=zero3.json", *EXPERTS, marks=with_deepspeed),
    ],
)
def test_parameters_spread_over_two_processes(
    program: str, option: str, case: str, stage: str, python: list[str], tmp_path: Path
) -> None:
    """Frozen and trained ones, a batch of text alone beside one with pictures, sample answers between steps, resumed
    half-way; as one process that accumulates two batches."""
    samples = {"every_steps": 2, "num_answers": 2, "max_new_tokens": 4}
    alone = llava_recipe(tmp_path / "alone", case, stage, gradient_accumulation=2, evaluation=samples)
    alone.schedule.__dict__["epochs"] = 4
    run_stage(alone)
    together = llava_recipe(tmp_path / "together", case, stage, evaluation=samples)
    if "=zero" in option:
        shutil.copytree(CONFIGS / "deepspeed", together.source.parent, dirs_exist_ok=True)
    environment = {"DS_ACCELERATOR": "cpu"}
    run = partial(run_in_ranks, python, f"tests.training.stages.{program}", folder=tmp_path, environment=environment)
    arguments = ["--cfg-path", str(together.source), "--options", option, "schedule.epochs=4"]
    run(arguments)
    expected = losses(tmp_path / "alone", step=4)
    assert losses(tmp_path / "together", step=4) == pytest.approx(expected, rel=1e-4)
    assert answers(tmp_path / "together") == answers(tmp_path / "alone")
    checkpoints = tmp_path / "together" / "output" / "checkpoints"
    for step in (3, 4):
        (checkpoints / f"checkpoint-{step}" / "trainer_state.json").unlink()
    found = latest_checkpoint(tmp_path / "together" / "output")
    assert found is not None
    assert found.name == "checkpoint-2"
    run(["--resume", *arguments])
    assert losses(tmp_path / "together", step=4) == pytest.approx(expected, rel=1e-4)
    models = [
        load_model(tmp_path / name / "output" / "final" / "eval.yaml", device="cpu", report=None)
        for name in ("alone", "together")
    ]
    for (name, ours), (_, theirs) in zip(*(model.state_dict().items() for model in models), strict=True):
        assert (ours - theirs).abs().max() < 0.02 * max(1.0, ours.abs().max().item()), name  # files are bf16


def test_a_batch_of_text_looks_at_a_black_picture_that_counts_nothing(tmp_path: Path) -> None:
    """The connector then has a gradient, of zero, so that all devices run the same modules."""
    recipe = llava_recipe(tmp_path, "mgm-7b", "2")
    model = load_model(GOLDENS / "mgm-7b" / "config.yaml", device="cpu", report=None)
    text = make_example(["what is red?"], ["a red ball"])
    batch = PROMPTS["chat"](BatchSide(model), [text], recipe.text, None)  # type: ignore[arg-type]  # draws nothing
    values = {name: value for name, value in vars(batch).items() if value is not None}
    looking, not_looking = (
        StageModel(model, STAGES["2"], LoraRecipe()),
        StageModel(model, Stage(learns=STAGES["2"].learns), LoraRecipe()),
    )
    losses = [stage_model(**values)["loss"] for stage_model in (looking, not_looking)]
    assert losses[0].item() == losses[1].item()
    for loss, is_there in zip(losses, (True, False), strict=True):
        model.zero_grad()
        loss.backward()
        gradients = [parameter.grad for parameter in model.connector.parameters()]
        assert all((gradient is not None) == is_there for gradient in gradients)
        assert not any(gradient is not None and gradient.any() for gradient in gradients)


def test_layers_are_the_units_of_sharding() -> None:
    model = load_model(GOLDENS / "moe-llava-phi2" / "config.yaml", device="cpu", report=None)
    names = StageModel(model, Stage(learns=("connector",)), LoraRecipe())._no_split_modules
    assert any(name.endswith("DecoderLayer") for name in names)
    assert "CLIPEncoderLayer" in names


class Filled(HfTrainerDeepSpeedConfig, HfDeepSpeedConfig):
    """transformers' view of a DeepSpeed file, without DeepSpeed."""

    def __init__(self, file: Path) -> None:
        HfDeepSpeedConfig.__init__(self, str(file))
        self.mismatches: list[str] = []
        self._dtype = None


@pytest.mark.parametrize("file", sorted((CONFIGS / "deepspeed").glob("*.json")), ids=lambda file: file.stem)
def test_deepspeeds_files_are_filled_in_from_the_recipe(file: Path, tmp_path: Path) -> None:
    """What can be checked without DeepSpeed: nothing is left open and nothing contradicts the Trainer's arguments."""
    recipe = llava_recipe(tmp_path, "mgm-7b", "2", precision="bf16", gradient_accumulation=2)
    model = load_model(GOLDENS / "mgm-7b" / "config.yaml", device="cpu", report=None)
    batches = training_batches(recipe, lambda *_: None, world_size=1)  # type: ignore[arg-type]
    args = training_arguments(recipe, tmp_path, batches, world_size=1, on_cpu=True)
    filled = Filled(file)
    filled.trainer_config_process(args)
    filled.trainer_config_finalize(args, StageModel(model, Stage(learns=("connector",)), LoraRecipe()), 4)
    assert "auto" not in json.dumps(filled.config)
    assert filled.config["gradient_accumulation_steps"] == filled.config["train_batch_size"] == 2
    assert filled.config["bf16"] == {"enabled": True}
    assert filled.config["gradient_clipping"] == 0.0  # without the key DeepSpeed clips at 1.0, the originals do not
    assert filled.config["zero_optimization"]["reduce_bucket_size"] == 96 * 96


def test_deepspeeds_file_is_found_beside_the_yaml(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = load_recipe(CONFIGS / "mgm_34b_stage2.yaml")
    monkeypatch.setattr("training.stages.stage_trainer.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"pip install -r requirements-zero\.txt, or --options deepspeed=null"):
        deepspeed_file(recipe)
    monkeypatch.setattr("training.stages.stage_trainer.find_spec", lambda _: "there")
    assert deepspeed_file(recipe) == str(CONFIGS / "deepspeed" / "zero3.json")
    with pytest.raises(ConfigError, match=r"deepspeed: none\.json not found here or beside the YAML"):
        deepspeed_file(load_recipe(recipe.source, ["deepspeed=none.json"]))


def test_a_process_may_be_given_nothing_of_what_is_gathered() -> None:
    """ZeRO 3 gives the whole state to the main process only, and None to the others."""
    accelerator = SimpleNamespace(get_state_dict=lambda _: None)
    other = SimpleNamespace(
        is_fsdp_enabled=False, accelerator=accelerator, model_wrapped=None, _stage_model=nn.Linear(2, 2)
    )
    assert StageTrainer.trainable_state(other) == {}  # type: ignore[arg-type]  # as much of a trainer as it takes


def test_fsdp_needs_several_gpus(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tiny_recipe(tmp_path, "minigpt_v2", stage="3")
    assert main(["--cfg-path", str(recipe.source), "--options", "fsdp=true"]) == 2
    assert "this is one process; start it with torchrun or accelerate launch" in capsys.readouterr().err


def test_what_is_sharded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    plain = tiny_recipe(tmp_path, "minigpt_v2")
    assert not is_sharded(plain)
    assert is_sharded(load_recipe(plain.source, ["fsdp=true"]))
    assert is_sharded(load_recipe(plain.source, ["deepspeed=zero2.json"]))
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert is_sharded(plain)
    with pytest.raises(ConfigError, match="fsdp and deepspeed exclude each other"):
        load_recipe(plain.source, ["fsdp=true", "deepspeed=zero2.json"])
    module = nn.Linear(2, 2)
    assert not has_parts_only(module)
    module.weight.ds_id = 1  # type: ignore[attr-defined]  # as DeepSpeed marks parameters
    assert has_parts_only(module)
