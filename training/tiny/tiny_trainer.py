"""transformers' Trainer for the tiny models' stages, over batches of scenes that are drawn as they are needed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from math import isnan
from os import cpu_count
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate import PartialState  # type: ignore[import-untyped]
from numpy.random import Generator
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import Dataset

from models.errors import ConfigError
from training.batch_trainer import (
    BatchTrainer,
    SavedTensorBoard,
    batch_arguments,
    latest_checkpoint,
    tensorboard_writer,
)
from training.tiny.optimiser import MuonWithAdamW, rate_factor

PARTS = 2  # of every step's batch: one process has both, one after the other, two have one each
_SAVE_EVERY = 100  # steps
_MOST_WORKERS = 8


class StepLoss(NamedTuple):
    """What a stage returns for a batch. A report may be NaN where a batch has nothing to report on."""

    loss: Tensor
    report: dict[str, float]


class SceneBatches(Dataset[dict[str, Any]]):
    """The steps' batches, in `PARTS` each: a pure function of seed, step and part, and of the share of steps done.

    `make` is given a generator and that share.
    """

    def __init__(self, make: Callable[[Generator, float], Any], *, steps: int, seed: int) -> None:
        self._make, self.steps, self._seed = make, steps, seed

    def __len__(self) -> int:
        return self.steps * PARTS

    def __getitem__(self, index: int) -> dict[str, Any]:
        step, part = divmod(index, PARTS)
        return {"batch": self._make(np.random.default_rng([self._seed, step, part]), step / self.steps)}


class TinyTrainer(BatchTrainer):
    """Trains a stage, a module that gives a `StepLoss` for a batch; logs the means of what it reports."""

    def __init__(self, model: nn.Module, **kwargs: Any) -> None:
        super().__init__(model, **kwargs)
        self._reports: dict[str, list[float]] = defaultdict(list)

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Tensor:
        """The loss of a batch."""
        del args, kwargs
        loss, report = model(moved(inputs["batch"], self.args.device))
        for name, value in report.items():
            self._reports[name].append(value)
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """See `Trainer.log`."""
        known = {name: [value for value in values if not isnan(value)] for name, values in self._reports.items()}
        self._reports.clear()
        super().log(logs | {name: float(np.mean(values)) for name, values in known.items() if values}, start_time)


def moved(value: Any, device: torch.device) -> Any:
    """A batch, made of dataclasses, lists and tensors, with all tensors on a device."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, list):
        return [moved(item, device) for item in value]
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{field.name: moved(getattr(value, field.name), device) for field in fields(value)})
    return value


def run_steps(
    stage: nn.Module,
    batches: SceneBatches,
    optimiser: MuonWithAdamW,
    *,
    decay_from: float,
    folder: Path,
    log_every: int,
) -> None:
    """Train a stage on all batches, or on those that are left after the newest checkpoint in `folder`.

    Products run in bfloat16; on the GPU if there is one. `folder` also has what TensorBoard shows. Raises ConfigError
    under a launcher of more than `PARTS` processes.
    """
    on_cpu = not torch.cuda.is_available()
    process = PartialState(cpu=on_cpu)
    if process.num_processes not in (1, PARTS):
        raise ConfigError(
            f"A bundled model is trained by {PARTS} processes at most; start with --nproc-per-node {PARTS}."
        )
    checkpoint = latest_checkpoint(folder)
    args = batch_arguments(
        folder,
        on_cpu=on_cpu,
        # A CPU is busy with the model itself; a GPU would wait for one process that draws.
        workers=0 if on_cpu else min(_MOST_WORKERS, cpu_count() or 1),
        max_steps=batches.steps,
        gradient_accumulation_steps=PARTS // process.num_processes,
        save_steps=_SAVE_EVERY,
        save_total_limit=2,
        logging_steps=log_every,
        bf16=True,
        max_grad_norm=0.0,  # gradients are not clipped
        report_to=[],
        label_names=[],
    )
    schedule = LambdaLR(optimiser, rate_factor(batches.steps, decay_from))
    writers = [SavedTensorBoard(tensorboard_writer(folder, checkpoint))] if process.is_main_process else []
    trainer = TinyTrainer(
        stage,
        args=args,
        train_dataset=batches,
        optimizers=(optimiser, schedule),
        callbacks=writers,
    )
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    process.wait_for_everyone()  # the main one may still be writing the last checkpoint
    stage.cpu()


def run_folder(save_to: Path) -> Path:
    """Where a stage that ends in the file `save_to` keeps checkpoints and logs."""
    return save_to.parent / "runs" / save_to.stem


def read_state(path: Path) -> dict[str, Any]:
    """What `write_state` wrote. Raises ConfigError where its stage has not been trained."""
    if not path.is_file():
        raise ConfigError(f"{path} is missing: its stage comes first; leave --only out, or name its family as well.")
    state: dict[str, Any] = torch.load(path, weights_only=True)
    return state


def write_state(state: dict[str, Any], save_to: Path) -> None:
    """Write a file that is there only when it is complete: it says that its stage is finished.

    Of several processes the main one writes, while the others wait.
    """
    process = PartialState()
    if process.is_main_process:
        partial = save_to.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(save_to)
    process.wait_for_everyone()
