"""What `StepWatch` and `refuse_non_finite` call ill."""

from __future__ import annotations

import math

import pytest
import torch

from training.health import MOST_IDLE_STEPS, StepWatch, TrainingDiverged, refuse_non_finite


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
    assert watch.num_idle == MOST_IDLE_STEPS - 1
    assert str(fault(watch, 1.0, 0.0)).startswith(f"{MOST_IDLE_STEPS} steps in a row had no gradient")


def test_batches_that_give_nothing_to_learn_neither_count_nor_heal() -> None:
    watch = StepWatch(may_overflow=False)
    assert [fault(watch, 1.0, 0.0, expects_gradient=False) for _ in range(50)] == [None] * 50
    for _ in range(MOST_IDLE_STEPS - 1):
        fault(watch, 1.0, 0.0)
    assert fault(watch, 1.0, 0.0, expects_gradient=False) is None
    assert fault(watch, 1.0, 0.0) is not None


def test_the_first_tensor_that_is_not_finite_is_named() -> None:
    tensors = {"a": torch.ones(2), "b": torch.tensor([1.0, math.inf]), "c": torch.tensor([math.nan])}
    with pytest.raises(TrainingDiverged, match=r"^x\.pth is not written: 2 of 3 tensors hold NaN or infinity, b among"):
        refuse_non_finite(tensors, "x.pth")
    refuse_non_finite({"a": torch.ones(2), "ids": torch.arange(3), "none": torch.empty(0)}, "x.pth")
