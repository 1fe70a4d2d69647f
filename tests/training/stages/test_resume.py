"""A run of any family that dies in the middle of a step goes on with the losses it would have had."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator  # type: ignore[import-untyped]
from transformers import TrainerCallback

from tests.training.runs import StopAt, Stopped, losses
from tests.training.tiny_stages import llava_recipe, tiny_recipe
from training.batch_trainer import latest_checkpoint
from training.recipe import Recipe
from training.train import run_stage

# Warned of by the libraries themselves, whatever is trained.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
# What draws random numbers in a step: LoRA's dropout and Phi's, stochastic depth, the noise of the second expert.
NOISY: dict[str, dict[str, Any]] = {
    "mgm-7b": {"vision_aux_config": {"drop_path_rate": 0.3}},
    "moe-llava-phi2": {"samples_second_expert": True},
}


def recipe_of(case: str, stage: str, folder: Path) -> Recipe:
    """Six steps over a recorded model."""
    if case not in NOISY:
        text = {"prompt": "alignment"} if case == "minigpt4-vicuna0" else {}
        return tiny_recipe(folder, case, stage=stage, text=text)
    recipe = llava_recipe(folder, case, stage)
    recipe.schedule.__dict__["epochs"] = 3
    recipe.model.update(NOISY[case])
    return recipe


@pytest.mark.parametrize(
    ("case", "stage"), [("minigpt4-vicuna0", "2"), ("tinygptv-stage4", "4"), ("mgm-7b", "2"), ("moe-llava-phi2", "3")]
)
def test_every_family(case: str, stage: str, tmp_path: Path) -> None:
    run_stage(recipe_of(case, stage, tmp_path / "whole"))
    recipe = recipe_of(case, stage, tmp_path / "killed")
    with pytest.raises(Stopped):
        run_stage(recipe, callbacks=[StopAt(4)])
    run_stage(recipe, resume=True)
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")
    assert len(set(losses(tmp_path / "whole"))) == 6


class StopWithin(TrainerCallback):
    """Ends a run between the batches that one step accumulates, while data workers make later ones."""

    def __init__(self, substep: int) -> None:
        self.left = substep

    def on_substep_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.left -= 1
        if not self.left:
            raise Stopped


@pytest.mark.parametrize("case", ["minigpt_v2", "mgm-7b"])
def test_in_the_middle_of_accumulation_with_data_workers(case: str, tmp_path: Path) -> None:
    """Data sets drawn by ratio, and grouped by length; the newest checkpoint is one step old."""
    changed: dict[str, Any] = {"gradient_accumulation": 3, "save_every_steps": 2}

    def recipe(name: str) -> Recipe:
        made = (
            tiny_recipe(tmp_path / name, case, stage="3", data={"workers": 2}, **changed)
            if case == "minigpt_v2"
            else llava_recipe(tmp_path / name, case, "2", **changed)
        )
        made.data.__dict__["workers"] = 2
        made.schedule.__dict__["epochs"] = 2 if case == "minigpt_v2" else 6
        return made

    run_stage(recipe("whole"))
    expected = losses(tmp_path / "whole")
    assert len(set(expected)) == 6
    with pytest.raises(Stopped):
        run_stage(recipe("killed"), callbacks=[StopWithin(8)])  # two in each step are no last ones: in the fourth step
    assert latest_checkpoint(tmp_path / "killed" / "output") == tmp_path / "killed/output/checkpoints/checkpoint-2"
    run_stage(recipe("killed"), resume=True)
    assert losses(tmp_path / "killed") == expected


def test_a_checkpoint_is_complete_once_all_processes_have_saved_theirs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Processes wait for each other when their own files are there, and before the one that says so."""
    found: list[tuple[bool, bool]] = []
    newest = tmp_path / "output" / "checkpoints"
    wait = Accelerator.wait_for_everyone

    def look(self: Accelerator) -> None:
        for folder in newest.glob("checkpoint-1"):
            found.append(((folder / "rng_state.pth").is_file(), (folder / "trainer_state.json").is_file()))
        wait(self)

    monkeypatch.setattr(Accelerator, "wait_for_everyone", look)
    run_stage(tiny_recipe(tmp_path, "minigpt_v2", stage="3", schedule={"epochs": 1, "steps_per_epoch": 1}))
    assert (True, False) in found


def test_another_number_of_processes_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    recipe = tiny_recipe(tmp_path, "minigpt_v2", stage="3")
    with pytest.raises(Stopped):
        run_stage(recipe, callbacks=[StopAt(3)])
    checkpoint = tmp_path / "output" / "checkpoints" / "checkpoint-2"
    (checkpoint / "rng_state.pth").rename(checkpoint / "rng_state_0.pth")
    shutil.copy(checkpoint / "rng_state_0.pth", checkpoint / "rng_state_1.pth")
    run_stage(recipe, resume=True)
    assert "checkpoint-2 was saved by 2 processes and this run has 1: dropout" in caplog.text


def test_a_finished_run_that_is_resumed_exports_again(tmp_path: Path) -> None:
    """As after a kill while the released files were written."""
    recipe = tiny_recipe(tmp_path, "minigpt_v2", stage="3")
    result = run_stage(recipe)
    checkpoint = result.parent / "checkpoint.pth"
    whole = torch.load(checkpoint)["model"]
    checkpoint.write_bytes(checkpoint.read_bytes()[:100])
    assert run_stage(recipe, resume=True) == result
    again = torch.load(checkpoint)["model"]
    assert all(torch.equal(again[name], tensor) for name, tensor in whole.items())


class SumsInOneOrder(TrainerCallback):
    """Notes at every step whether sums over threads are kept in one order."""

    def __init__(self) -> None:
        self.seen: list[bool] = []

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.seen.append(torch.are_deterministic_algorithms_enabled())


def test_no_sum_depends_on_which_thread_is_first(tmp_path: Path) -> None:
    """Experts' gradients come from a gather; with several threads two runs in thirty differed in the last bits."""
    noted = SumsInOneOrder()
    run_stage(recipe_of("moe-llava-phi2", "3", tmp_path), callbacks=[noted])
    assert noted.seen == [True] * 6
    assert not torch.are_deterministic_algorithms_enabled()
