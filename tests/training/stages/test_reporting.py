"""What a run tells while it goes on: Weights & Biases through a stand-in, pictures with boxes in TensorBoard."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]
from torch.utils.tensorboard import SummaryWriter

from models.errors import ConfigError
from tests.paths import ROOT
from tests.training.runs import StopAt, Stopped
from tests.training.tiny_stages import tiny_recipe
from training.data.readers import make_example
from training.recipe import EvaluationRecipe
from training.stages.sample_answers import SampleAnswers
from training.train import run_stage

# Warned of by the libraries themselves, whatever is trained.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


class FakeWandb(ModuleType):
    """As much of wandb as transformers' callback and ours use; `logged` holds what was logged."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.__spec__ = ModuleSpec("wandb", loader=None)
        self.logged: list[dict[str, Any]] = []
        self.begun: list[dict[str, Any]] = []
        self.run: Any = None
        self.config: dict[str, Any] = {}
        self.Image = lambda picture: ("picture", picture.size)
        self.Html = lambda text: ("html", text)

    def init(self, **settings: Any) -> Any:
        self.begun.append(settings)
        own = settings["id"] or f"new-{len(self.begun)}"
        self.run = SimpleNamespace(summary={}, _label=lambda **_: None, name="x", id=own)
        self.config = type("Config", (dict,), {"update": lambda self, values, **_: dict.update(self, values)})()
        return self.run

    def define_metric(self, *args: Any, **kwargs: Any) -> None: ...

    def log(self, values: dict[str, Any]) -> None:
        """Without a step of its own: one behind wandb's counter would be thrown away."""
        self.logged.append(values)


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeWandb]:
    fake = FakeWandb()
    config_util = ModuleType("wandb.sdk.lib.config_util")
    config_util.ConfigError = RuntimeError  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", fake)
    for name in ("wandb.sdk", "wandb.sdk.lib"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, "wandb.sdk.lib.config_util", config_util)
    monkeypatch.setattr("transformers.integrations.integration_utils.is_wandb_available", lambda: True)
    return fake


def test_weights_and_biases(wandb: FakeWandb, tmp_path: Path) -> None:
    settings = {"every_steps": 2, "num_answers": 2, "max_new_tokens": 4}
    recipe = tiny_recipe(tmp_path, "minigpt_v2", stage="3", evaluation=settings, tracker="wandb")
    run_stage(recipe)
    (begun,) = wandb.begun
    assert (begun["name"], begun["dir"]) == (recipe.name, recipe.output_dir)
    losses = {entry["train/global_step"] for entry in wandb.logged if "train/loss" in entry}
    assert losses == {1, 2, 3, 4, 5, 6}
    shown = {entry["train/global_step"]: entry for entry in wandb.logged if "sample 0" in entry}
    assert set(shown) == {2, 4, 6}
    assert set(shown[2]) == {"sample 0", "sample 1", "answers", "train/global_step"}
    assert "expected: " in shown[6]["answers"][1]
    assert not (tmp_path / "output" / "logs").exists()


def test_a_resumed_run_goes_on_in_weights_and_biases(wandb: FakeWandb, tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path, "minigpt_v2", stage="3", tracker="wandb", save_every_steps=2)
    with pytest.raises(Stopped):
        run_stage(recipe, callbacks=[StopAt(4)])
    run_stage(recipe, resume=True)
    assert [(begun["id"], begun["resume"]) for begun in wandb.begun] == [(None, "allow"), ("new-1", "allow")]
    logged = {step: [e for e in wandb.logged if e.get("train/global_step") == step] for step in range(1, 7)}
    once_more = [entry["train/loss"] for entry in logged[3]]  # after the checkpoint of step 2
    assert len(once_more) == 2
    assert once_more[0] == once_more[1]
    assert all(len(entries) >= 1 for entries in logged.values())
    shutil.rmtree(tmp_path / "output" / "checkpoints")
    run_stage(recipe)
    assert wandb.begun[2]["id"] is None, "a run from the beginning is another one"


@pytest.mark.parametrize(("tracker", "other"), [("wandb", "tensorboard"), ("tensorboard", "none")])
def test_a_tracker_that_is_not_installed(
    tracker: str, other: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("training.train.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=f"pip install {tracker}, or --options tracker={other}"):
        run_stage(tiny_recipe(tmp_path, "minigpt_v2", stage="3", tracker=tracker))


def test_training_without_its_libraries_is_one_line(python: list[str]) -> None:
    code = "import runpy, sys; sys.modules['peft'] = None; runpy.run_module('training', run_name='__main__')"
    found = subprocess.run([*python, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert found.returncode == 1
    assert found.stderr.splitlines()[-1] == (
        'error: training needs peft, which is not installed; run: pip install -e ".[train]"'
    )
    assert "Traceback" not in found.stderr


def test_a_resumed_runs_bar_begins_where_it_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """So that the time left is not worked out from steps of the run before; and TensorBoard shows every step once."""
    recipe = tiny_recipe(tmp_path, "minigpt_v2", stage="3", tracker="tensorboard", save_every_steps=2)
    with pytest.raises(Stopped):
        run_stage(recipe, callbacks=[StopAt(4)])
    assert re.search(r"1/6 \[\d\d:\d\d<\d\d:\d\d", capsys.readouterr().err), "time taken and time left"
    run_stage(recipe, resume=True)
    drawn = capsys.readouterr().err
    assert "2/6 [00:00<" in drawn
    assert "1/6" not in drawn
    scalars = EventAccumulator(str(tmp_path / "output" / "logs")).Reload().Scalars("train/loss")
    assert [event.step for event in scalars] == [1, 2, 3, 4, 5, 6]


def test_boxes_of_answers_are_drawn_in_tensorboard(tmp_path: Path) -> None:
    said = "<p>a ball</p> {<50><50><100><100>}"
    example = make_example(["where?"], ["there"], [Image.new("RGB", (100, 100))])
    writer = SummaryWriter(log_dir=str(tmp_path / "logs"))
    SampleAnswers([example], EvaluationRecipe(), tmp_path / "samples", writer=writer).write([said], 7)
    writer.close()
    events = EventAccumulator(str(tmp_path / "logs"), size_guidance={"images": 0}).Reload()
    (event,) = events.Images("sample 0")
    assert event.step == 7
    (tmp_path / "shown.png").write_bytes(event.encoded_image_string)
    shown = Image.open(tmp_path / "shown.png").convert("RGB")
    assert shown.getpixel((50, 75)) == (0xE6, 0x9F, 0x00)
    assert shown.getpixel((25, 25)) == (0, 0, 0)
    assert "box 1: a ball" in (tmp_path / "samples" / "step-000007" / "answers.md").read_text()
