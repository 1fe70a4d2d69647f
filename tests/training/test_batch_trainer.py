"""A run that is ill: which step ends it, what it says, and what it leaves."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import Dataset

from tests.training.runs import Stopped
from training.batch_trainer import STATE_FILE, BatchTrainer, batch_arguments, latest_checkpoint
from training.step_watch import MOST_IDLE_STEPS, TrainingDiverged

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


STOPPED = -1.0  # in place of a slope: the run is stopped there


class Slope(nn.Module):
    """Its loss is the weight times the batch, so its gradient is the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, *, slope: Tensor) -> dict[str, Tensor]:
        return {"loss": (self.weight * slope).sum()}


class Slopes(Dataset[dict[str, Tensor]]):
    """One number for each step."""

    def __init__(self, slopes: list[float]) -> None:
        self._slopes = slopes

    def __len__(self) -> int:
        return len(self._slopes)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if self._slopes[index] == STOPPED:
            raise Stopped
        return {"slope": torch.tensor([self._slopes[index]])}


def run(
    slopes: list[float],
    folder: Path,
    *,
    rate: float = 0.1,
    save_every: int = 2,
    keep: int | None = None,
    guess_loss: float = math.inf,
    after: int | None = None,
) -> None:
    """Train on all slopes, or on those that follow the checkpoint `after` a step."""
    model = Slope()
    args = batch_arguments(
        folder,
        on_cpu=True,
        workers=0,
        max_steps=len(slopes),
        save_steps=save_every,
        save_total_limit=keep,
        report_to=[],
        max_grad_norm=0.0,
    )
    optimiser = torch.optim.SGD(model.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.ConstantLR(optimiser, factor=1.0)
    trainer = BatchTrainer(
        model, args=args, guess_loss=guess_loss, train_dataset=Slopes(slopes), optimizers=(optimiser, schedule)
    )
    trainer.train(resume_from_checkpoint=after and str(folder / "checkpoints" / f"checkpoint-{after}"))


def saved(folder: Path) -> list[str]:
    return sorted((path.name for path in (folder / "checkpoints").iterdir()), key=lambda name: int(name[11:]))


@pytest.mark.parametrize(("slope", "what"), [(math.nan, "the loss is nan"), (math.inf, "the loss is inf")])
def test_the_run_ends_before_the_step_that_would_spoil_it(slope: float, what: str, tmp_path: Path) -> None:
    with pytest.raises(
        TrainingDiverged, match=rf"^step 6: {what}\. The last good checkpoint is .*/checkpoint-4; begin"
    ):
        run([1.0] * 5 + [slope] + [1.0] * 4, tmp_path)
    assert saved(tmp_path) == ["checkpoint-2", "checkpoint-4"]


def test_before_the_first_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(TrainingDiverged, match=r"^step 1: the loss is nan\. Nothing was saved before; begin again"):
        run([math.nan] * 4, tmp_path)


def test_nothing_is_saved_any_more_once_nothing_learns(tmp_path: Path) -> None:
    with pytest.raises(TrainingDiverged, match=rf"^step {5 + MOST_IDLE_STEPS}: .* no gradient.*/checkpoint-4; begin"):
        run([1.0] * 5 + [0.0] * 30, tmp_path)
    assert saved(tmp_path) == ["checkpoint-2", "checkpoint-4"]


def test_a_checkpoint_that_fell_on_a_step_without_gradient_is_made_up_for(tmp_path: Path) -> None:
    run([1.0, 1.0, 1.0, 0.0, 0.0, 1.0, 1.0], tmp_path, save_every=4)
    assert saved(tmp_path) == ["checkpoint-6", "checkpoint-7"]
    newest = latest_checkpoint(tmp_path)
    assert newest is not None
    assert float(load_file(newest / STATE_FILE)["weight"]) == pytest.approx(0.5)


def test_weights_that_are_no_numbers_are_not_saved(tmp_path: Path) -> None:
    """A step can spoil the weights without a sign in its loss or gradient."""
    with pytest.raises(TrainingDiverged, match=r"1 of 1 tensors hold NaN or infinity.*last good checkpoint is .*-2;"):
        run([1e-3, 1e-3, 1e-3, 1e38], tmp_path, rate=1000.0)
    newest = latest_checkpoint(tmp_path)
    assert newest is not None
    assert newest.name == "checkpoint-2"


def test_the_last_good_checkpoint_is_from_before_the_loss_exploded(tmp_path: Path) -> None:
    """The weights of checkpoint-7 are those that gave step 8 its loss, so they are spoiled already."""
    slopes = [1.0] * 7 + [9.0] * 20
    with pytest.raises(
        TrainingDiverged, match=r"^step 20: the loss was 6.2 in the last 20 steps and 1 before; .*-6; begin again"
    ):
        run(slopes, tmp_path, rate=0.0, save_every=1, guess_loss=10.0)
    assert saved(tmp_path)[-1] == "checkpoint-7"


def test_a_run_whose_last_losses_have_exploded_gives_no_result(tmp_path: Path) -> None:
    with pytest.raises(TrainingDiverged, match=r"^step 12: the loss was 9 in the last 10 .* Nothing was saved before;"):
        run([1.0, *[9.0] * 11], tmp_path, rate=0.0, save_every=20, guess_loss=8.0)
    assert saved(tmp_path) == []


def test_a_checkpoint_that_fell_on_an_exploded_loss_is_made_up_for(tmp_path: Path) -> None:
    run([1.0] * 7 + [9.0, 9.0] + [1.0] * 6, tmp_path, rate=0.0, save_every=8, guess_loss=10.0)
    assert saved(tmp_path) == ["checkpoint-14", "checkpoint-15"]


WELL = [1.0] * 7
EXPLOSIONS = {
    "at once": WELL + [9.0] * 25,
    "with pauses in which there is something to save": WELL + ([9.0] + [1.0] * 6) * 2 + [9.0] * 25,
    "little by little": [*WELL, 1.5, 2.0, 3.0, 3.6, 4.0, 4.2, 4.4, 4.6, 4.8] + [9.0] * 25,
}


@pytest.mark.parametrize("keep", [1, 2])
@pytest.mark.parametrize(
    ("losses", "good"),
    [("at once", 6), ("with pauses in which there is something to save", 6), ("little by little", 9)],
)
def test_the_last_good_checkpoint_is_never_deleted_for_a_newer_one(
    losses: str, good: int, keep: int, tmp_path: Path
) -> None:
    with pytest.raises(TrainingDiverged, match=rf"The last good checkpoint is .*/checkpoint-{good}; begin again"):
        run(EXPLOSIONS[losses], tmp_path, rate=0.0, save_every=1, keep=keep, guess_loss=10.0)
    assert f"checkpoint-{good}" in saved(tmp_path)
    assert len(saved(tmp_path)) == 2


def test_of_a_run_that_is_well_the_newest_are_kept(tmp_path: Path) -> None:
    run([1.0] * 7, tmp_path, save_every=2, keep=2, guess_loss=10.0)
    assert saved(tmp_path) == ["checkpoint-6", "checkpoint-7"]


def test_a_resumed_run_knows_the_losses_before(tmp_path: Path) -> None:
    """It was stopped when its loss had exploded already, and would take that for where it began."""
    with pytest.raises(Stopped):
        run([*WELL, 9.0, 9.0, STOPPED], tmp_path, rate=0.0, save_every=1, guess_loss=10.0)
    with pytest.raises(TrainingDiverged, match=r"^step 20: .* and 1 before; .* The last good .*/checkpoint-6; begin"):
        run(WELL + [9.0] * 20, tmp_path, rate=0.0, save_every=1, guess_loss=10.0, after=7)
