"""Drawn scenes through the readers, and the configs that train the tiny models on with them."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

from models.config import load_config
from models.grounding import parse_grounded_text, regions_of
from models.loader import load_model
from tests.paths import ROOT
from tests.training.runs import losses
from training.data.annotations import DataError
from training.data.formats import FORMATS
from training.data.readers import DatasetPaths, DatasetReader
from training.prepare import main as prepare
from training.recipe import load_recipe
from training.stages.stage_files import model_config
from training.train import run_stage

TINY = sorted((ROOT / "training" / "configs").glob("tiny_*.yaml"))
# Warned of by the libraries themselves, whatever is trained.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


def reader(name: str, annotations: str = "data/3/50") -> DatasetReader:
    return FORMATS[name](DatasetPaths(annotations=annotations, images=Path()))


def test_a_scene_is_the_same_for_ever_and_its_questions_are_the_steps() -> None:
    scenes = reader("scenes_boxes")
    assert len(scenes) == 50
    first, again, other = (scenes.example(7, Random(seed)) for seed in (0, 0, 1))
    assert first.turns[0].images[0].tobytes() == other.turns[0].images[0].tobytes()
    assert first.questions == again.questions
    assert first.questions != other.questions
    assert reader("scenes_boxes", "4/50").example(7, Random(0)).images != first.images


def test_only_models_with_task_identifiers_are_asked_for_boxes() -> None:
    asked = [reader("scenes_boxes").example(n, Random(n)) for n in range(40)]
    assert any(question.startswith("[refer]") for example in asked for question in example.questions)
    assert any(regions_of(parse_grounded_text(answer)) for example in asked for answer in example.answers)
    assert any(len(example.questions) > 1 for example in asked)
    chats = [reader("scenes_chat").example(n, Random(n)) for n in range(40)]
    assert not any("[" in question or "{" in question for example in chats for question in example.questions)


@pytest.mark.parametrize("annotations", ["data", "scenes.json", "data/0", "data/x/5", "data/0/0"])
def test_what_is_no_seed_and_count(annotations: str) -> None:
    with pytest.raises(DataError, match="must be SEED/COUNT, for example 0/10000"):
        reader("scenes_chat", annotations)


def test_there_is_a_config_for_every_tiny_model() -> None:
    families = ("mini_gemini", "minigpt4", "minigpt_v2", "moe_llava", "tinygpt_v")
    assert [path.stem for path in TINY] == [f"tiny_{family}" for family in families]


@pytest.mark.parametrize("path", TINY, ids=lambda path: path.stem)
def test_they_train_the_checkpoints_of_the_eval_configs(path: Path) -> None:
    shipped = load_config(ROOT / "eval_configs" / path.name)
    ours = model_config(load_recipe(path), {})
    differing = {name for name, value in vars(ours).items() if value != getattr(shipped, name)}
    assert differing <= {"source", "name", "description", "sampling", "trained_with_extras"}


@pytest.mark.parametrize("path", [path for path in TINY if "minigpt" in path.stem], ids=lambda path: path.stem)
def test_a_bundled_model_is_trained_on(path: Path, tmp_path: Path) -> None:
    """Two steps of the config: a loss of a model that knows scenes, pictures in TensorBoard, files that load."""
    assert prepare(["--cfg-path", str(path), "--open", "3"]) == 0
    options = [f"output_dir={tmp_path / 'output'}", "schedule.epochs=1", "schedule.steps_per_epoch=2"]
    options += ["data.workers=0", "save_every_steps=2", "log_every_steps=1", "schedule.warmup_steps=1"]
    options += ["evaluation.every_steps=2", "evaluation.num_batches=1", "evaluation.num_answers=3"]
    recipe = load_recipe(path, [*options, "evaluation.max_new_tokens=40"])
    result = run_stage(recipe)
    assert all(0 < loss < 2 for loss in losses(tmp_path, step=2))
    events = EventAccumulator(str(tmp_path / "output" / "logs"), size_guidance={"images": 0}).Reload()
    assert {"train/loss", "eval/loss"} <= set(events.Tags()["scalars"])
    assert events.Tags()["images"] == ["sample 0", "sample 1", "sample 2"]
    assert [event.step for event in events.Images("sample 0")] == [2]
    answers = (tmp_path / "output" / "samples" / "step-000002" / "answers.md").read_text()
    assert answers.count("expected: ") == 3
    model = load_model(result, device="cpu", report=None)
    assert model.info.is_toy
    assert yaml.safe_load(result.read_text())["family"] == recipe.family
    assert next(model.parameters()).dtype == torch.float32
