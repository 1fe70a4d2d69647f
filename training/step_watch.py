"""Whether a training run is well: losses and gradients are numbers, something learns, only numbers are saved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf, isfinite
from statistics import fmean

from torch import Tensor

from models.errors import MiniVLMError

MOST_IDLE_STEPS = 10  # optimiser steps in a row without any gradient after which a run ends

# A loss is compared with that of a guess, for which all pieces of the vocabulary are as likely as each other.
_LOST, _WORSE = 1 / 2, 1 / 4  # of it: what a loss must reach to be lost, and by how much the best must be lower
_BEST_STEPS, _LOST_STEPS, _LAST_STEPS = 5, 20, 10  # of which means are taken: the best, the newest, those at the end


class TrainingDiverged(MiniVLMError):
    """A loss, gradient or weight is NaN or infinite, the loss has exploded, or nothing learns any more."""


@dataclass
class StepHistory:
    """What is remembered of a run's steps, up to now. Losses of the newest steps, the newest last."""

    losses: list[float] = field(default_factory=list)
    # Found when they came: a run's first losses are high, too.
    were_lost: list[bool] = field(default_factory=list)
    were_doubtful: list[bool] = field(default_factory=list)
    first: float = inf
    best: float = inf
    num_idle: int = 0
    """Steps in a row that had no gradient and should have had one."""


class StepWatch:
    """Looks at the losses and the gradient of every optimiser step, before the weights change.

    `may_overflow`: gradients may be infinite now and then, because a loss scaler (fp16) leaves such steps out.
    `guess_loss`: the loss of a model that knows nothing, ln(vocabulary); without it, no finite loss is too large.
    """

    def __init__(self, *, may_overflow: bool, guess_loss: float = inf) -> None:
        self._may_overflow = may_overflow
        self._guess_loss = guess_loss
        self._loss: Tensor | None = None
        self._expects_gradient = False
        self.history = StepHistory()
        """To be given to the watch of a run that is resumed."""

    @property
    def is_doubtful(self) -> bool:
        """Whether the weights may be spoiled already: one of the newest losses was lost."""
        return self.history.num_idle > 0 or any(self.history.were_lost[-_BEST_STEPS:])

    @property
    def num_doubtful(self) -> int:
        """So many steps ago, this one included, the first of the newest steps that was doubtful; 0: none was.

        A step is doubtful if its loss was far above the best, or if it had no gradient. Weights that were good before
        the step that led to it are good, whatever comes.
        """
        were = self.history.were_doubtful
        return max(self.history.num_idle, len(were) - were.index(True) if True in were else 0)

    def add_loss(self, loss: Tensor, *, expects_gradient: bool = True) -> None:
        """Take the loss of one batch of the step; it is only looked at in `find_fault`, so that no device waits."""
        self._loss = loss.detach() if self._loss is None else self._loss + loss.detach()
        self._expects_gradient |= expects_gradient

    def find_fault(self, gradient_norm: Tensor | float) -> str | None:
        """What is wrong with the step whose losses were added, if anything. `gradient_norm` is that of all gradients
        together."""
        loss, norm, past = float(self._loss if self._loss is not None else 0.0), float(gradient_norm), self.history
        is_idle = norm == 0 and self._expects_gradient
        past.num_idle = past.num_idle + 1 if is_idle else 0 if norm else past.num_idle
        self._take(loss, is_taught=self._expects_gradient)
        self._loss, self._expects_gradient = None, False
        if not isfinite(loss):
            return f"the loss is {loss}"
        if not isfinite(norm) and not self._may_overflow:
            return f"the gradient is {norm}"
        if past.num_idle >= MOST_IDLE_STEPS:
            return f"{past.num_idle} steps in a row had no gradient, so nothing learns any more"
        return self._exploded(_LOST_STEPS) if len(past.losses) == _LOST_STEPS else None

    def find_fault_at_end(self) -> str | None:
        """What is wrong with the weights after the last step, if anything: the newest losses are too large."""
        count = len(self.history.losses)
        return self._exploded(min(_LAST_STEPS, count - 1)) if count > 1 else None

    def _take(self, loss: float, *, is_taught: bool) -> None:
        """Remember a step's loss. One that teaches nothing says nothing of the weights, which stay as they were."""
        past = self.history
        if not is_taught and isfinite(loss):
            if not past.losses:
                return
            loss = past.losses[-1]
        if past.first == inf:
            past.first = loss
        is_lost = self._is_lost(loss)
        is_far = loss >= past.best + _WORSE * self._guess_loss
        past.losses.append(loss)
        past.were_lost.append(is_lost)
        past.were_doubtful.append(is_lost or is_far)
        for newest in (past.losses, past.were_lost, past.were_doubtful):
            del newest[:-_LOST_STEPS]
        if len(past.losses) >= _BEST_STEPS:
            past.best = min(past.best, fmean(past.losses[-_BEST_STEPS:]))

    def _is_lost(self, loss: float) -> bool:
        """Whether a loss is much nearer to a guess's than the best was, or than that of the weights before any step.

        The latter is one batch's alone, so that only a loss worse than a guess's counts as lost beside it.
        """
        guess, best = self._guess_loss, self.history.best
        is_far = loss >= max(_LOST * guess, best + _WORSE * guess) or loss >= guess > self.history.first / _LOST
        return is_far or not isfinite(loss)

    def _exploded(self, steps: int) -> str | None:
        newest, best = fmean(self.history.losses[-steps:]), min(self.history.best, self.history.first)
        if not self._is_lost(newest):
            return None
        return (
            f"the loss was {newest:.3g} in the last {steps} steps and {best:.3g} before; "
            f"a guess has {self._guess_loss:.3g}"
        )


def refuse_non_finite(tensors: Mapping[str, Tensor], what: object) -> None:
    """Raises TrainingDiverged if one of the tensors that are to be written as `what` holds NaN or infinity."""
    ill = [name for name, tensor in tensors.items() if not bool(tensor.isfinite().all())]
    if ill:
        raise TrainingDiverged(
            f"{what} is not written: {len(ill)} of {len(tensors)} tensors hold NaN or infinity, {ill[0]} among them."
        )
