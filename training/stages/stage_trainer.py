"""transformers' Trainer for a stage: the originals' optimiser groups and schedules, and checkpoints of what learns."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import save_fsdp_optimizer  # type: ignore[import-untyped]
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from transformers import TrainingArguments
from transformers.trainer import SCHEDULER_NAME

from models.errors import ConfigError
from training.batch_trainer import BatchTrainer, batch_arguments
from training.data.mixture import MixtureDataset
from training.recipe import Recipe
from training.stages.schedule import MinigptSchedule, warmup_cosine
from training.stages.sharding import check_fsdp, gathered_state, spread_state
from training.stages.stage_model import StageModel

_NOT_DECAYED = ("bias", "ln", "bn")  # parts of released names; source: LAVIS, `runner_base.py`, `optimizer`


class StageTrainer(BatchTrainer):
    """Trains the free parameters of a `StageModel` on a `MixtureDataset`."""

    def __init__(
        self,
        recipe: Recipe,
        model: StageModel,
        *,
        released_name: Callable[[str], str],
        args: TrainingArguments,
        **kwargs: Any,
    ) -> None:
        vocabulary = model.config.get_text_config().vocab_size
        super().__init__(model, args=args, guess_loss=math.log(vocabulary), **kwargs)
        self._recipe = recipe
        self._stage_model = model
        self._released_name = released_name
        check_fsdp(recipe, self)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """AdamW over groups by weight decay and learning rate factor."""
        assert model is None  # transformers gives one for FSDP 1 only
        if self.optimizer is None:
            settings, schedule = self._recipe.optimiser, self._recipe.schedule
            self.optimizer = torch.optim.AdamW(
                parameter_groups(self._recipe, self._stage_model.trainable(), self._released_name),
                lr=schedule.init_lr,
                betas=(0.9, settings.beta2),
            )
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> LRScheduler:
        """The recipe's schedule."""
        if self.lr_scheduler is None:
            factor = schedule_factor(self._recipe, num_training_steps)
            chosen = optimizer or self.optimizer
            assert chosen is not None
            self.lr_scheduler = LambdaLR(chosen, factor)
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def expects_gradient(self, inputs: dict[str, Any]) -> bool:
        """Where only the connector learns, text alone gives it nothing."""
        return inputs.get("pixel_values") is not None

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """The loss on held-out data. The generators stay as they were, so training's losses do not depend on it."""
        device = self.args.device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            return super().evaluate(*args, **kwargs)

    def trainable_state(self) -> dict[str, Tensor]:
        """Every name of every trainable parameter -> its value on the CPU.

        Sharded parameters are gathered: all processes must call this, and only the main one is sure to get the values.
        """
        if self.is_fsdp_enabled:
            whole = gathered_state(self.model_wrapped)
        else:
            whole = self.accelerator.get_state_dict(self.model_wrapped) or {}  # None from ZeRO 3
        frees = {name for name, p in self._stage_model.named_parameters(remove_duplicate=False) if p.requires_grad}
        return {name.removeprefix("model."): tensor.detach().cpu() for name, tensor in whole.items() if name in frees}

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """What learns, in one file; see `Trainer.save_model`."""
        if self.is_fsdp_enabled:
            self._save(output_dir, gathered_state(self.model_wrapped))
        else:
            super().save_model(output_dir, _internal_call)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self.is_fsdp_enabled:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        # Not the model once more, whole and with its frozen part, as transformers would.
        plugin = self.accelerator.state.fsdp_plugin
        save_fsdp_optimizer(plugin, self.accelerator, self.optimizer, self.model, output_dir)
        if self.args.should_save and self.lr_scheduler is not None:
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / SCHEDULER_NAME)

    def _put_back(self, state: Mapping[str, Tensor]) -> None:
        if self.is_fsdp_enabled:
            spread_state(self.model_wrapped, state)
        else:
            super()._put_back(state)


def parameter_groups(
    recipe: Recipe, named: Mapping[str, nn.Parameter], released_name: Callable[[str], str]
) -> list[dict[str, Any]]:
    """Optimiser groups: matrices decay, vectors and whatever is called bias, ln or bn does not; by rate factor."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in named.items():
        released = released_name(name)
        decays = parameter.ndim >= 2 and not any(part in released for part in _NOT_DECAYED)
        factors = [factor for key, factor in recipe.optimiser.lr_factors.items() if key in released]
        factor = factors[0] if factors else 1.0
        groups.setdefault((recipe.optimiser.weight_decay if decays else 0.0, factor), []).append(parameter)
    return [
        {"params": parameters, "weight_decay": decay, "lr": recipe.schedule.init_lr * factor}
        for (decay, factor), parameters in groups.items()
    ]


def schedule_factor(recipe: Recipe, total_steps: int) -> Callable[[int], float]:
    """Step -> the learning rate as a part of the highest."""
    settings = recipe.schedule
    if settings.kind == "warmup_cosine":
        return warmup_cosine(total_steps, settings.warmup_ratio)
    return MinigptSchedule(
        init_lr=settings.init_lr,
        min_lr=settings.min_lr,
        warmup_lr=settings.warmup_lr,
        warmup_steps=settings.warmup_steps,
        epochs=settings.epochs,
        steps_per_epoch=settings.steps_per_epoch,
    ).factor


def training_arguments(
    recipe: Recipe, folder: Path, batches: MixtureDataset, *, world_size: int, on_cpu: bool
) -> TrainingArguments:
    """The recipe in transformers' words. One item of the data set is one batch. Raises ConfigError."""
    launched = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if launched not in ("no", recipe.precision):
        raise ConfigError(
            f"{recipe.source}: precision is {recipe.precision}, but accelerate's configuration says {launched}; add "
            f"--options precision={launched}, or --mixed_precision no to accelerate launch."
        )
    evaluates = bool(recipe.evaluation.every_steps and recipe.evaluation.datasets)
    return batch_arguments(
        folder,
        on_cpu=on_cpu,
        workers=recipe.data.workers,
        max_steps=len(batches) // (world_size * recipe.gradient_accumulation),
        gradient_accumulation_steps=recipe.gradient_accumulation,
        learning_rate=recipe.schedule.init_lr,
        max_grad_norm=0.0,  # the originals do not clip
        save_steps=recipe.save_every_steps,
        save_total_limit=recipe.keep_checkpoints,
        logging_steps=recipe.log_every_steps,
        eval_strategy="steps" if evaluates else "no",
        eval_steps=recipe.evaluation.every_steps or None,
        prediction_loss_only=True,
        report_to=["wandb"] if recipe.tracker == "wandb" else [],
        run_name=recipe.name,
        seed=recipe.seed,
        fp16=recipe.precision == "fp16",
        bf16=recipe.precision == "bf16",
        ddp_find_unused_parameters=True,  # a batch of text alone does not use the connector
        deepspeed=deepspeed_file(recipe),
        fsdp=recipe.fsdp,
        fsdp_config={"version": 2, "state_dict_type": "FULL_STATE_DICT"} if recipe.fsdp else None,
        label_names=["labels"],
    )


def deepspeed_file(recipe: Recipe) -> str | None:
    """The recipe's DeepSpeed configuration, here or beside the YAML. Raises ConfigError."""
    if recipe.deepspeed is None:
        return None
    if find_spec("deepspeed") is None:
        raise ConfigError(
            f"{recipe.source}: deepspeed is not installed; pip install -r requirements-zero.txt, "
            "or --options deepspeed=null."
        )
    file = next((f for f in (Path(recipe.deepspeed), recipe.source.parent / recipe.deepspeed) if f.is_file()), None)
    if file is None:
        raise ConfigError(f"{recipe.source}: deepspeed: {recipe.deepspeed} not found here or beside the YAML.")
    return str(file)
