"""Whether a training run is well: losses and gradients are numbers, something learns, only numbers are saved."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite

from torch import Tensor

from models.errors import MiniVLMError

MOST_IDLE_STEPS = 10  # optimiser steps in a row without any gradient after which a run ends


class TrainingDiverged(MiniVLMError):
    """A loss, gradient or weight is NaN or infinite, or nothing learns any more."""


class StepWatch:
    """Looks at the losses and the gradient of every optimiser step, before the weights change.

    `may_overflow`: gradients may be infinite now and then, because a loss scaler (fp16) leaves such steps out.
    """

    def __init__(self, *, may_overflow: bool) -> None:
        self._may_overflow = may_overflow
        self._loss: Tensor | None = None
        self._expects_gradient = False
        self.num_idle = 0
        """Steps in a row, up to now, that had no gradient and should have had one."""

    def add_loss(self, loss: Tensor, *, expects_gradient: bool = True) -> None:
        """Take the loss of one batch of the step; it is only looked at in `find_fault`, so that no device waits."""
        self._loss = loss.detach() if self._loss is None else self._loss + loss.detach()
        self._expects_gradient |= expects_gradient

    def find_fault(self, gradient_norm: Tensor | float) -> str | None:
        """What is wrong with the step whose losses were added, if anything. `gradient_norm` is that of all gradients
        together."""
        loss, norm = float(self._loss if self._loss is not None else 0.0), float(gradient_norm)
        is_idle = norm == 0 and self._expects_gradient
        self.num_idle = self.num_idle + 1 if is_idle else 0 if norm else self.num_idle
        self._loss, self._expects_gradient = None, False
        if not isfinite(loss):
            return f"the loss is {loss}"
        if not isfinite(norm) and not self._may_overflow:
            return f"the gradient is {norm}"
        if self.num_idle >= MOST_IDLE_STEPS:
            return f"{self.num_idle} steps in a row had no gradient, so nothing learns any more"
        return None


def refuse_non_finite(tensors: Mapping[str, Tensor], what: object) -> None:
    """Raises TrainingDiverged if one of the tensors that are to be written as `what` holds NaN or infinity."""
    ill = [name for name, tensor in tensors.items() if not bool(tensor.isfinite().all())]
    if ill:
        raise TrainingDiverged(
            f"{what} is not written: {len(ill)} of {len(tensors)} tensors hold NaN or infinity, {ill[0]} among them."
        )
