"""What `StepWatch` and `refuse_non_finite` call ill."""

from __future__ import annotations

import math
import random

import pytest
import torch

from training.step_watch import MOST_IDLE_STEPS, StepWatch, TrainingDiverged, refuse_non_finite


def fault(watch: StepWatch, loss: float, norm: float, *, expects_gradient: bool = True) -> str | None:
    watch.add_loss(torch.tensor(loss), expects_gradient=expects_gradient)
    return watch.find_fault(torch.tensor(norm))


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_no_number(loss: float) -> None:
    assert fault(StepWatch(may_overflow=True), loss, 1.0) == f"the loss is {loss}"


def test_one_of_several_accumulated_losses_is_enough() -> None:
    watch = StepWatch(may_overflow=False)
    for loss in (1.0, math.nan, 2.0):
        watch.add_loss(torch.tensor(loss))
    assert watch.find_fault(1.0) == "the loss is nan"
    assert fault(watch, 1.0, 1.0) is None, "the next step has losses of its own"


def test_a_gradient_may_overflow_under_a_loss_scaler_only() -> None:
    assert fault(StepWatch(may_overflow=False), 1.0, math.inf) == "the gradient is inf"
    assert fault(StepWatch(may_overflow=True), 1.0, math.inf) is None


def test_steps_without_gradient_must_follow_each_other() -> None:
    watch = StepWatch(may_overflow=False)
    for _ in range(2):
        assert [fault(watch, 1.0, 0.0) for _ in range(MOST_IDLE_STEPS - 1)] == [None] * (MOST_IDLE_STEPS - 1)
        assert fault(watch, 1.0, 0.5) is None
    for _ in range(MOST_IDLE_STEPS - 1):
        fault(watch, 1.0, 0.0)
    assert watch.history.num_idle == MOST_IDLE_STEPS - 1
    assert str(fault(watch, 1.0, 0.0)).startswith(f"{MOST_IDLE_STEPS} steps in a row had no gradient")


def test_batches_that_give_nothing_to_learn_neither_count_nor_heal() -> None:
    watch = StepWatch(may_overflow=False)
    assert [fault(watch, 1.0, 0.0, expects_gradient=False) for _ in range(50)] == [None] * 50
    for _ in range(MOST_IDLE_STEPS - 1):
        fault(watch, 1.0, 0.0)
    assert fault(watch, 1.0, 0.0, expects_gradient=False) is None
    assert fault(watch, 1.0, 0.0) is not None


GUESS = math.log(32000)  # 10.4, of which a half is 5.2 and a quarter 2.6
GOOD = [2.0, 1.5, 1.0, 1.2, 0.8] * 4
RESTS = {
    "a guess": [GUESS] * 20,
    "worse than a guess": [40.0, 300.0] * 10,
    "the likeliest words": [6.5, 7.0, 5.0, 8.0] * 5,
}


def first_fault(losses: list[float], guess: float = GUESS) -> tuple[int, str]:
    """The first step that is called ill, from 1, and the reason; 0 for the end, -1 for never."""
    watch = StepWatch(may_overflow=False, guess_loss=guess)
    for step, loss in enumerate(losses, start=1):
        if reason := fault(watch, loss, 1.0):
            return step, reason
    return (0, reason) if (reason := watch.find_fault_at_end()) else (-1, "")


@pytest.mark.parametrize("rest", RESTS)
def test_a_loss_that_explodes_and_stays_finite(rest: str) -> None:
    step, reason = first_fault(GOOD + RESTS[rest])
    assert len(GOOD) < step <= len(GOOD) + 20
    assert "in the last 20 steps and 1.3 before; a guess has 10.4" in reason
    assert first_fault(GOOD + RESTS[rest], guess=math.inf)[0] == -1


@pytest.mark.parametrize("good", [1, 3, 15])
def test_a_short_run_that_ends_ill(good: int) -> None:
    """There is nothing to compare but the first loss, where the first step spoils everything."""
    step, reason = first_fault([*GOOD[:good], 11.0, 12.0, 10.5, 13.0])
    assert step == 0
    assert "before; a guess has 10.4" in reason


@pytest.mark.parametrize(
    "losses",
    [
        [GUESS - 0.1 * step for step in range(80)],  # from nothing
        [2.6, *[6.0, 6.5, 5.5] * 9],  # a new projector, whose first batch happens to be easy
        GOOD + [9.0, 9.0, 1.0, 1.0, 1.0] * 5 + GOOD,  # batches that are hard
        [3.0, 4.5] * 20,
        [0.01] * 20 + [4.9] * 20,
    ],
    ids=["from nothing", "a new projector", "hard batches", "uneven", "another data set"],
)
def test_losses_that_are_well(losses: list[float]) -> None:
    assert first_fault(losses) == (-1, "")


def test_weights_are_in_doubt_from_the_first_large_loss() -> None:
    watch = StepWatch(may_overflow=False, guess_loss=GUESS)
    for loss in GOOD:
        fault(watch, loss, 1.0)
    assert (watch.is_doubtful, watch.num_doubtful) == (False, 0)
    fault(watch, 8.0, 1.0)
    assert (watch.is_doubtful, watch.num_doubtful) == (True, 1)
    fault(watch, 0.0, 0.0, expects_gradient=False)  # a batch that teaches nothing says nothing either
    assert (watch.is_doubtful, watch.num_doubtful) == (True, 2)
    for _ in range(5):
        fault(watch, 1.0, 1.0)
    assert (watch.is_doubtful, watch.num_doubtful) == (False, 7)
    assert "nan" in str(fault(watch, math.nan, 1.0, expects_gradient=False))
    assert (watch.is_doubtful, watch.num_doubtful) == (True, 8)


def test_what_was_good_once_is_called_good_ever_after() -> None:
    """Whatever the losses: else a checkpoint that was kept as the last good one could turn out to be none."""
    draw = random.Random(0)
    for _ in range(200):
        watch, good, losses = StepWatch(may_overflow=False, guess_loss=GUESS), set[int](), [0.5, 2.0, 4.0, 7.0, 12.0]
        for step in range(1, 60):
            fault(watch, draw.choice(losses), float(draw.random() > 0.1))
            now = set(range(step - watch.num_doubtful))
            assert good <= now
            good = now


def test_weights_without_gradient_are_in_doubt() -> None:
    watch = StepWatch(may_overflow=False)
    assert [(fault(watch, 1.0, norm), watch.num_doubtful)[1] for norm in (1.0, 0.0, 0.0, 1.0)] == [0, 1, 2, 0]


def test_the_first_tensor_that_is_not_finite_is_named() -> None:
    tensors = {"a": torch.ones(2), "b": torch.tensor([1.0, math.inf]), "c": torch.tensor([math.nan])}
    with pytest.raises(TrainingDiverged, match=r"^x\.pth is not written: 2 of 3 tensors hold NaN or infinity, b among"):
        refuse_non_finite(tensors, "x.pth")
    refuse_non_finite({"a": torch.ones(2), "ids": torch.arange(3), "none": torch.empty(0)}, "x.pth")
