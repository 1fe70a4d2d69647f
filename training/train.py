"""Train a stage: `python -m training --cfg-path YAML`, alone or under `accelerate launch -m training`.

What a run leaves in its `output_dir`: `checkpoints/` to go on from, `logs/` for TensorBoard, `samples/` with answers
while it went on, `final/` with the released file format and the eval config that `demo.py` takes.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from random import Random
from typing import Any

import torch
import yaml
from accelerate import PartialState  # type: ignore[import-untyped]
from transformers import TrainerCallback

from models.command_line import place
from models.devices import pick_devices
from models.disk import written_whole
from models.errors import ConfigError, MiniVLMError
from models.family_config import FamilyConfig
from models.files.released import ReleasedFiles
from models.loader import build_model
from training.batch_trainer import SavedTensorBoard, begin_wandb_run, latest_checkpoint, tensorboard_writer
from training.data.formats import check_formats
from training.data.minigpt_sequences import Batch
from training.data.mixture import MixtureDataset, evaluation_batches, training_batches
from training.data.prompts import BatchSide
from training.data.readers import TrainingExample
from training.families import FamilyTraining, family_training
from training.recipe import Recipe, load_recipe
from training.stages.sample_answers import SampleAnswers
from training.stages.sharding import check_processes, is_sharded
from training.stages.stage_files import model_config
from training.stages.stage_model import StageModel
from training.stages.stage_trainer import StageTrainer, training_arguments

_log = logging.getLogger(__name__)
RESTARTS = "TORCHELASTIC_RESTART_COUNT"  # how often torchrun has started this run again (--max-restarts)
_FROZEN = {"no": "float32", "fp16": "float16", "bf16": "bfloat16"}


def run_stage(recipe: Recipe, *, resume: bool = False, callbacks: Sequence[TrainerCallback] = ()) -> Path:
    """Train the stage of a recipe to its end; returns the eval config of the result.

    `resume` goes on from the newest complete checkpoint, and so does a run that torchrun starts again. Raises
    MiniVLMError with one line for what a user can mend.
    """
    folder = Path(recipe.output_dir)
    checkpoint = _checkpoint_to_resume(recipe, folder, resume=resume)
    family = family_training(recipe)
    check_formats(recipe)
    on_cpu = not torch.cuda.is_available() or recipe.model.get("device") == "cpu"
    if on_cpu and recipe.precision == "fp16":
        raise ConfigError(f"{recipe.source}: precision fp16 needs a GPU; use --options precision=no on a CPU.")
    process = PartialState(cpu=on_cpu)
    check_processes(recipe, process.num_processes)
    is_spread = "," in str(recipe.model.get("device"))
    if process.num_processes == 1 and not on_cpu and not is_spread and torch.cuda.device_count() > 1:
        _log.info("One of %d GPUs is used; start with torchrun to use them all.", torch.cuda.device_count())
    config = model_config(
        recipe, _starting_values(recipe, family, process, folder / "start", is_new=checkpoint is None)
    )
    stage_model = _stage_model(recipe, family, config, process, on_cpu=on_cpu)
    side = BatchSide(stage_model.model)

    def make(examples: Sequence[TrainingExample], rng: Random) -> Batch:
        return family.PROMPTS[recipe.text.prompt](side, examples, recipe.text, rng)

    batches = training_batches(recipe, make, world_size=process.num_processes)
    held_out = evaluation_batches(recipe, make)
    args = training_arguments(recipe, folder, batches, world_size=process.num_processes, on_cpu=on_cpu)
    reporting = _reporting(recipe, folder, held_out or batches, checkpoint, is_main=process.is_main_process)
    trainer = StageTrainer(
        recipe,
        stage_model,
        released_name=family.released_name,
        args=args,
        train_dataset=batches,
        eval_dataset=held_out,
        callbacks=[*reporting, *callbacks],
    )
    for callback in reporting:
        if isinstance(callback, SampleAnswers):
            callback.autocast = trainer.accelerator.autocast
    with _same_order_of_sums(on_cpu=on_cpu):
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    state = trainer.trainable_state()
    final = folder / "final"
    if process.is_main_process:
        family.export(recipe, config, ReleasedFiles(config), state, final)
        values = {key: value for key, value in dataclasses.asdict(recipe).items() if key != "source"}
        with written_whole(final / "recipe.yaml") as partial:
            partial.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    process.wait_for_everyone()
    return final / "eval.yaml"


@contextmanager
def _same_order_of_sums(*, on_cpu: bool) -> Iterator[None]:
    """On a CPU, make a repeated or resumed run equal to the last bit.

    The gradient of a gather, such as that of the experts' weights, is otherwise summed by all threads at once, in
    whatever order they come. On a GPU the same guarantee would cost speed and forbid some kernels: there runs agree up
    to rounding.
    """
    was_on = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(was_on or on_cpu)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(was_on)


def _stage_model(
    recipe: Recipe, family: FamilyTraining, config: FamilyConfig, process: PartialState, *, on_cpu: bool
) -> StageModel:
    """The loaded model with the stage's parameters set free, on this process's device."""
    # Sharded training places the weights itself.
    sharded = is_sharded(recipe)
    device = "cpu" if on_cpu or sharded else str(process.device)
    if "," in (wanted := str(recipe.model.get("device"))):
        _check_several(recipe, process, wanted)
        device = wanted
    # Frozen weights of the other half format can't be multiplied under autocast.
    dtype = "float32" if config.dtype == "float32" else _FROZEN[recipe.precision]
    config = dataclasses.replace(config, device=device, dtype=dtype)
    model = build_model(config, report=_log.info, keep_lora=True)
    stage = family.STAGES[recipe.stage]
    if stage.pictures is not None:
        model.image_processor = stage.pictures(model.image_processor, recipe.text.image_aspect_ratio)
    stage_model = StageModel(model, stage, recipe.lora, looks_always=sharded)
    if recipe.gradient_checkpointing:
        model.language_model.activation_checkpointing_enable()
    model.language_model.config.use_cache = False
    return stage_model


def _check_several(recipe: Recipe, process: PartialState, wanted: str) -> None:
    """Raise ConfigError where a model can't be spread over the GPUs of the key `device`."""
    if recipe.fsdp or recipe.deepspeed or process.num_processes > 1:
        raise ConfigError(
            f"{recipe.source}: device {wanted} is for one process without a launcher; add --options deepspeed=null "
            "fsdp=false."
        )
    if pick_devices(wanted)[0].index != (process.device.index or 0):
        raise ConfigError(
            f"{recipe.source}: device {wanted}: training begins on {process.device}, which must be the first; choose "
            "other GPUs with CUDA_VISIBLE_DEVICES."
        )


def _starting_values(
    recipe: Recipe, family: FamilyTraining, process: PartialState, folder: Path, *, is_new: bool
) -> dict[str, Any]:
    """What the family starts from. The main process makes it, once for a run; the others and resumed runs read it."""
    record = folder / "values.json"
    if process.is_main_process and (is_new or not record.is_file()):
        values = family.starting_values(recipe, folder)
        folder.mkdir(parents=True, exist_ok=True)
        with written_whole(record) as partial:
            partial.write_text(json.dumps(values), encoding="utf-8")
    process.wait_for_everyone()
    recorded: dict[str, Any] = json.loads(record.read_text(encoding="utf-8"))
    return recorded


def _checkpoint_to_resume(recipe: Recipe, folder: Path, *, resume: bool) -> Path | None:
    checkpoint = latest_checkpoint(folder)
    if int(os.environ.get(RESTARTS, "0")) > 0:
        return checkpoint  # or anew, if a process died before there was one
    if checkpoint is not None and not resume:
        raise ConfigError(
            f"{folder} holds a run already ({checkpoint.name}); add --resume or choose another output_dir."
        )
    if resume and checkpoint is None:
        raise ConfigError(f"{recipe.source}: there is no checkpoint in {folder} to resume from; leave --resume out.")
    return checkpoint


def _reporting(
    recipe: Recipe, folder: Path, batches: MixtureDataset, checkpoint: Path | None, *, is_main: bool
) -> list[TrainerCallback]:
    """The tracker, in the main process, and sample answers."""
    callbacks: list[TrainerCallback] = []
    writer: Any = None
    if recipe.tracker != "none" and find_spec(recipe.tracker) is None:
        other = "tensorboard" if recipe.tracker == "wandb" else "none"
        raise ConfigError(
            f"{recipe.source}: tracker {recipe.tracker} needs the package: pip install {recipe.tracker}, or "
            f"--options tracker={other}."
        )
    if recipe.tracker == "tensorboard" and is_main:
        writer = tensorboard_writer(folder, checkpoint)
        callbacks.append(SavedTensorBoard(writer))
    elif recipe.tracker == "wandb" and is_main:
        begin_wandb_run(folder, recipe.name, checkpoint)
    settings = recipe.evaluation
    if settings.every_steps and settings.num_answers:
        examples: list[TrainingExample] = []
        for number in range(len(batches)):
            if len(examples) >= settings.num_answers:
                break
            examples += batches.examples(number)
        callbacks.append(
            SampleAnswers(
                examples[: settings.num_answers],
                settings,
                folder / "samples",
                writer=writer,
                uses_wandb=recipe.tracker == "wandb",
            )
        )
    return callbacks


def one_line(error: Exception) -> str:
    """An error's message; one from a data worker comes wrapped in that worker's traceback."""
    whole = str(error.args[0]) if error.args else ""  # str() of our errors is one line
    return whole.strip().splitlines()[-1].partition(": ")[2] if whole.startswith("Caught ") else str(error).strip()


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m training", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cfg-path", type=place, required=True, help="YAML of the stage, see training/configs/")
    parser.add_argument("--options", nargs="+", default=[], metavar="KEY=VALUE", help="override keys of the YAML")
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint in output_dir")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    try:
        result = run_stage(load_recipe(options.cfg_path, options.options), resume=options.resume)
    except MiniVLMError as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 2
    if PartialState().is_main_process:
        print(f"Done. Try it: python demo.py --cfg-path {result}")
    if torch.distributed.is_initialized():  # left open, its threads now and then abort the process as it ends
        torch.distributed.destroy_process_group()
    return 0
