"""Learning rate schedules of the originals, as factors of the highest rate.

Source: LAVIS / MiniGPT-4, `common/optims.py`, `LinearWarmupCosineLRScheduler`, quirks included; transformers' cosine
schedule with a warm-up ratio for the LLaVA line.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from transformers.optimization import _get_cosine_schedule_with_warmup_lr_lambda


@dataclass(frozen=True, kw_only=True)
class MinigptSchedule:
    """Linear warm-up and cosine by epoch and step, `lr(t)` for step t over the whole run, from 0.

    Two quirks are kept. The warm-up counts steps of the epoch, so one that is longer than an epoch starts again with
    each epoch. The cosine counts all steps, those of the warm-up too, so the rate drops a little when it takes over.
    `min_lr` may lie above `init_lr` (TinyGPT-V stage 4): the cosine then rises.
    """

    init_lr: float
    min_lr: float
    warmup_lr: float
    warmup_steps: int
    epochs: int
    steps_per_epoch: int

    @property
    def total_steps(self) -> int:
        """Optimiser steps of the whole run."""
        return self.epochs * self.steps_per_epoch

    def lr(self, step: int) -> float:
        """The learning rate of a step."""
        if step < self.warmup_steps:
            in_epoch = step % self.steps_per_epoch
            start = self.warmup_lr if self.warmup_lr >= 0 else self.init_lr
            return min(self.init_lr, start + (self.init_lr - start) * in_epoch / max(self.warmup_steps, 1))
        cosine = 0.5 * (1 + math.cos(math.pi * step / self.total_steps))
        return (self.init_lr - self.min_lr) * cosine + self.min_lr

    def factor(self, step: int) -> float:
        """The rate as a part of `init_lr`, for `LambdaLR`."""
        return self.lr(step) / self.init_lr


def warmup_cosine(total_steps: int, warmup_ratio: float) -> Callable[[int], float]:
    """Linear warm-up over a part of the run, then a cosine to zero: LLaVA's `lr_scheduler_type cosine`."""
    warmup = math.ceil(total_steps * warmup_ratio)

    def factor(step: int) -> float:
        return _get_cosine_schedule_with_warmup_lr_lambda(
            step, num_warmup_steps=warmup, num_training_steps=total_steps, num_cycles=0.5
        )

    return factor
