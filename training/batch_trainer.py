"""transformers' Trainer over data sets whose items are whole batches: what every training here is built on."""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from importlib import import_module
from multiprocessing import get_all_start_methods
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import ProgressCallback, Trainer, TrainerControl, TrainerState, TrainingArguments
from transformers.integrations import TensorBoardCallback
from transformers.trainer_utils import TrainOutput, rotate_checkpoints

from models.disk import DiskFull, one_line_if_full
from models.errors import CheckpointCorrupt, CheckpointMismatch
from training.step_watch import StepHistory, StepWatch, TrainingDiverged, refuse_non_finite

STATE_FILE = "trainable.safetensors"
_HISTORY_FILE = "losses.json"
_log = logging.getLogger(__name__)


class ProgressBar(ProgressCallback):
    """transformers' bar; the time left is worked out from this run's steps, without those before it was resumed."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Begin where the run goes on."""
        super().on_train_begin(args, state, control, **kwargs)
        self.current_step = state.global_step
        bar: Any = self.training_bar  # in the main process only
        if bar is not None:
            bar.initial = bar.n = bar.last_print_n = state.global_step
            bar.refresh()

    def close(self) -> None:
        """End the bars' lines, so that an error message begins one."""
        bars: list[Any] = [self.training_bar, self.prediction_bar]
        for bar in bars:
            if bar is not None:
                bar.close()


class BatchTrainer(Trainer):
    """Trains the free parameters of a module on a data set whose item n is the whole batch n.

    So transformers deals the batches out to GPUs and skips those that a resumed run has had. Checkpoints hold what
    learns, the optimiser, the schedule and every generator: a resumed run has the losses of one that was never stopped.

    A run that is ill ends with TrainingDiverged, before the step that would spoil its weights, or once its loss has
    exploded: see `StepWatch`, also for `guess_loss`. While the weights are in doubt, nothing is saved. Of the newest
    checkpoints as many are kept as the arguments say, but the last good one in any case.
    """

    def __init__(
        self, model: nn.Module, *, args: TrainingArguments, guess_loss: float = math.inf, **kwargs: Any
    ) -> None:
        super().__init__(model=model, args=args, data_collator=_the_only_one, **kwargs)
        self._bar = ProgressBar()
        if self.pop_callback(ProgressCallback) is not None:  # there is none where no bar is wanted
            self.add_callback(self._bar)
        self._whole = model  # `self.model` and `model_wrapped` may be shards of it
        # transformers deletes by age alone, and the good ones may be the oldest.
        self._most_checkpoints, self.args.save_total_limit = self.args.save_total_limit, None
        self._watch = StepWatch(may_overflow=bool(self.args.fp16), guess_loss=guess_loss)
        self._save_is_due = False
        self._trainable = frozenset(name for name, parameter in model.named_parameters() if parameter.requires_grad)

    def train(self, *args: Any, **kwargs: Any) -> TrainOutput:
        """See `Trainer.train`."""
        try:
            output = super().train(*args, **kwargs)
        finally:
            self._bar.close()
        if fault := self._watch.find_fault_at_end():
            raise TrainingDiverged(f"step {self.state.global_step}: {fault}. {self._last_good(self.state.global_step)}")
        return output

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Tensor:
        """See `Trainer.training_step`."""
        loss = super().training_step(model, inputs, *args, **kwargs)
        self._watch.add_loss(loss, expects_gradient=self.expects_gradient(inputs))
        return loss

    def expects_gradient(self, inputs: dict[str, Any]) -> bool:  # noqa: ARG002  # for subclasses
        """Whether something must learn from a batch."""
        return True

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        """Called once for every optimiser step, just before it."""
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        fault = self._watch.find_fault(norm)
        if fault is not None:
            step = self.state.global_step + 1
            raise TrainingDiverged(f"step {step}: {fault}. {self._last_good(step)}")
        return norm

    def _good_checkpoint(self, step: int) -> Path | None:
        """The newest checkpoint that is known to be good. `step` is the newest whose loss is known."""
        # A step's loss is that of the weights after the step before it.
        return latest_checkpoint(Path(str(self.args.output_dir)).parent, before=step - self._watch.num_doubtful)

    def _last_good(self, step: int) -> str:
        """Where the last good weights are, and what to do. `step` is the newest whose loss is known."""
        checkpoint = self._good_checkpoint(step)
        saved = "Nothing was saved before" if checkpoint is None else f"The last good checkpoint is {checkpoint}"
        return f"{saved}; begin again in another output_dir with a lower learning rate (schedule.init_lr)."

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        self.control.should_save |= self._save_is_due
        super()._maybe_log_save_evaluate(*args, **kwargs)

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        self._save_is_due = self._watch.is_doubtful
        if self._save_is_due:
            return
        folder = Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}"
        try:
            with one_line_if_full(folder):
                super()._save_checkpoint(*args, **kwargs)
        except DiskFull:
            shutil.rmtree(folder, ignore_errors=True)  # its part would only take room
            raise
        if self.args.should_save:
            good = self._good_checkpoint(self.state.global_step)
            rotate_checkpoints(
                str(folder.parent), self._most_checkpoints, best_model_checkpoint=None if good is None else str(good)
            )

    def _save(self, output_dir: str | None = None, state_dict: Mapping[str, Tensor] | None = None) -> None:
        """What learns, without the frozen rest."""
        if not self.args.should_save:
            return
        folder = Path(output_dir or str(self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        state = self._whole.state_dict() if state_dict is None else state_dict
        learnt = {name: state[name].detach().cpu().contiguous() for name in sorted(self._trainable)}
        try:
            refuse_non_finite(learnt, folder / STATE_FILE)
        except TrainingDiverged as error:
            raise TrainingDiverged(f"{error} {self._last_good(self.state.global_step)}") from error
        save_file(learnt, folder / STATE_FILE)
        (folder / _HISTORY_FILE).write_text(json.dumps(asdict(self._watch.history)), encoding="utf-8")

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        # Next the main process writes the state that makes a checkpoint complete, and deletes old ones.
        self.accelerator.wait_for_everyone()

    def _load_rng_state(self, checkpoint: str | None) -> None:
        saved = 0 if checkpoint is None else len(list(Path(checkpoint).glob("rng_state*.pth")))
        if saved and saved != self.args.world_size and self.is_world_process_zero():
            _log.warning(
                "%s was saved by %d processes and this run has %d: dropout draws other numbers, and steps have the "
                "same batches only if processes x gradient_accumulation is the same.",
                checkpoint,
                saved,
                self.args.world_size,
            )
        super()._load_rng_state(checkpoint)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        del model
        file = Path(resume_from_checkpoint) / STATE_FILE
        state = load_file(file)
        if state.keys() != self._trainable:
            raise CheckpointMismatch(
                f"{file} is from a run that trained other parameters; resume with its recipe or change output_dir."
            )
        self._put_back(state)
        history = file.with_name(_HISTORY_FILE)
        if history.is_file():  # older ones have none
            self._watch.history = StepHistory(**json.loads(history.read_text(encoding="utf-8")))

    def _put_back(self, state: Mapping[str, Tensor]) -> None:
        self._whole.load_state_dict(state, strict=False)


def _the_only_one(items: list[dict[str, Any]]) -> dict[str, Any]:
    """An item is a batch already."""
    (batch,) = items
    return batch


def batch_arguments(folder: Path, *, on_cpu: bool, workers: int, **settings: Any) -> TrainingArguments:
    """transformers' settings for a `BatchTrainer` whose checkpoints go into `folder`/checkpoints."""
    can_fork = "fork" in get_all_start_methods()
    args = TrainingArguments(
        output_dir=str(folder / "checkpoints"),
        per_device_train_batch_size=1,
        per_device_eval_batch_size=1,
        train_sampling_strategy="sequential",
        remove_unused_columns=False,
        logging_first_step=True,
        logging_nan_inf_filter=False,
        use_cpu=on_cpu,
        dataloader_pin_memory=not on_cpu,
        dataloader_num_workers=workers,
        # Forked workers share the memory of the data sets; others would be sent gigabytes of annotations.
        dataloader_multiprocessing_context="fork" if workers and can_fork else None,
        **settings,
    )
    # A process has one GPU. For several without a launcher, transformers would ask for several items at once.
    args._n_gpu = min(args.n_gpu, 1)
    return args


def tensorboard_writer(folder: Path, checkpoint: Path | None) -> Any:
    """A writer of `folder`/logs. Steps after the checkpoint that a run goes on from are drawn once, not twice."""
    from torch.utils.tensorboard import SummaryWriter  # only where it is asked for; training does without

    redone = None if checkpoint is None else step_of(checkpoint) + 1
    return SummaryWriter(log_dir=str(folder / "logs"), purge_step=redone)


class SavedTensorBoard(TensorBoardCallback):
    """TensorBoard's events are on the disk with every checkpoint: what is logged before it is not logged again."""

    def on_save(self, *_: Any, **__: Any) -> None:
        """A checkpoint was written; the writer by itself leaves up to two minutes in memory."""
        if self.tb_writer is not None:
            self.tb_writer.flush()


def begin_wandb_run(folder: Path, name: str, checkpoint: Path | None) -> None:
    """Begin a run at Weights & Biases, whose id stays in `folder`, or go on with that of a run that is resumed.

    transformers' callback takes the run that is there. Steps after the checkpoint are logged twice, with equal values.
    """
    wandb = import_module("wandb")  # only where it is asked for; training does without
    record = folder / "wandb_run_id"
    known = record.read_text(encoding="utf-8").strip() if checkpoint is not None and record.is_file() else None
    folder.mkdir(parents=True, exist_ok=True)
    project, place = os.environ.get("WANDB_PROJECT", "minivlm-chat"), os.environ.get("WANDB_DIR", str(folder))
    run = wandb.init(project=project, dir=place, name=name, id=known, resume="allow")
    record.write_text(f"{run.id}\n", encoding="utf-8")


def step_of(checkpoint: Path) -> int:
    """The step after which a checkpoint was written, from its folder's name."""
    return int(checkpoint.name.rpartition("-")[2])


def latest_checkpoint(folder: Path, *, before: int | None = None) -> Path | None:
    """The newest complete checkpoint, if wanted of those before a step.

    One that was being written when the run was killed has no readable state yet.
    """
    found = sorted((folder / "checkpoints").glob("checkpoint-*"), key=step_of)
    if before is not None:
        found = [path for path in found if step_of(path) < before]
    for path in reversed(found):
        try:
            json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))  # written last
        except (OSError, ValueError):
            continue
        if not (path / STATE_FILE).is_file():
            raise CheckpointCorrupt(f"{path} has no {STATE_FILE}; delete the folder to go on from the one before.")
        return path
    return None
