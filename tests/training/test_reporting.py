"""What a run tells while it goes on: Weights & Biases through a stand-in, pictures with boxes in TensorBoard."""

from __future__ import annotations

import re
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

import training.sample_answers
from models.conversation import Answer
from models.errors import ConfigError
from models.loader import load_model
from tests.training.test_train_stage import StopAt, Stopped
from tests.training.tiny_stages import GOLDENS, tiny_recipe
from training.data.readers import make_example
from training.recipe import EvaluationRecipe, LoraRecipe
from training.sample_answers import SampleAnswers
from training.stages import Stage, StageModel
from training.train import run_stage

# Warned of by the libraries themselves, whatever is trained.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


ROOT = Path(__file__).parents[2]


class FakeWandb(ModuleType):
    """As much of wandb as transformers' callback and ours use; `logged` holds what was logged."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.__spec__ = ModuleSpec("wandb", loader=None)
        self.logged: list[dict[str, Any]] = []
        self.settings: dict[str, Any] = {}
        self.run: Any = None
        self.config: dict[str, Any] = {}
        self.Image = lambda picture: ("picture", picture.size)
        self.Html = lambda text: ("html", text)

    def init(self, **settings: Any) -> None:
        self.settings = settings
        self.run = SimpleNamespace(summary={}, _label=lambda **_: None, name="x", id="x")
        self.config = type("Config", (dict,), {"update": lambda self, values, **_: dict.update(self, values)})()

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
    assert wandb.settings["name"] == recipe.name
    losses = {entry["train/global_step"] for entry in wandb.logged if "train/loss" in entry}
    assert losses == {1, 2, 3, 4, 5, 6}
    shown = {entry["train/global_step"]: entry for entry in wandb.logged if "sample 0" in entry}
    assert set(shown) == {2, 4, 6}
    assert set(shown[2]) == {"sample 0", "sample 1", "answers", "train/global_step"}
    assert "expected: " in shown[6]["answers"][1]
    assert not (tmp_path / "output" / "logs").exists()


@pytest.mark.parametrize(("tracker", "other"), [("wandb", "tensorboard"), ("tensorboard", "none")])
def test_a_tracker_that_is_not_installed(
    tracker: str, other: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("training.train.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=f"pip install {tracker}, or --options tracker={other}"):
        run_stage(tiny_recipe(tmp_path, "minigpt_v2", stage="3", tracker=tracker))


def test_training_without_its_libraries_is_one_line() -> None:
    code = "import runpy, sys; sys.modules['peft'] = None; runpy.run_module('training', run_name='__main__')"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
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


def test_boxes_of_answers_are_drawn_in_tensorboard(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model = load_model(GOLDENS / "minigpt4-vicuna0" / "config.yaml", device="cpu", report=lambda _: None)
    stage_model = StageModel(model, Stage(learns=(r"^connector\.projection",)), LoraRecipe())
    said = "<p>a ball</p> {<50><50><100><100>}"
    answer = [Answer(text=said)]
    monkeypatch.setattr(training.sample_answers, "generate", lambda *_: answer)
    example = make_example(["where?"], ["there"], [Image.new("RGB", (100, 100))])
    writer = SummaryWriter(log_dir=str(tmp_path / "logs"))
    SampleAnswers([example], EvaluationRecipe(), tmp_path / "samples", writer=writer).write(stage_model, 7)
    writer.close()
    events = EventAccumulator(str(tmp_path / "logs"), size_guidance={"images": 0}).Reload()
    (event,) = events.Images("sample 0")
    assert event.step == 7
    (tmp_path / "shown.png").write_bytes(event.encoded_image_string)
    shown = Image.open(tmp_path / "shown.png").convert("RGB")
    assert shown.getpixel((50, 75)) == (0xE6, 0x9F, 0x00)
    assert shown.getpixel((25, 25)) == (0, 0, 0)
    assert "box 1: a ball" in (tmp_path / "samples" / "step-000007" / "answers.md").read_text()
