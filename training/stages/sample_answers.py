"""Answers to a few held-out questions while training goes on, with the boxes they name drawn into the pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from html import escape
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from engine.generate import generate
from models.conversation import Sampling, Turn
from models.grounding import Region, parse_grounded_text, regions_of
from training.data.readers import TrainingExample
from training.recipe import EvaluationRecipe
from training.stages.sharding import has_parts_only, parts_callable
from training.stages.stage_model import StageModel

# Okabe and Ito's palette, told apart by colour-blind people too.
_COLOURS = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7")
_DESCRIBE = "Describe this image in detail."  # asked where an example's prompt is the picture alone
_PICTURE_SIDE = 448


def draw_regions(image: Image.Image, regions: Sequence[Region]) -> Image.Image:
    """The picture, at most 448 pixels wide or high, with numbered boxes."""
    picture = image.copy()
    picture.thumbnail((_PICTURE_SIDE, _PICTURE_SIDE))
    draw = ImageDraw.Draw(picture)
    for number, region in enumerate(regions, start=1):
        colour = _COLOURS[(number - 1) % len(_COLOURS)]
        x0, y0, x1, y1 = region.box.pixels(picture.width - 1, picture.height - 1)
        draw.rectangle((x0, y0, x1, y1), outline=colour, width=2)
        draw.text((x0 + 3, y0 + 2), f"{number} {region.label}".strip(), fill=colour)
    return picture


class SampleAnswers(TrainerCallback):
    """Writes `samples/step-N/answers.md` and a picture for each answer, and gives both to the tracker.

    The main process answers and writes. With a model that is spread over several, all of them answer the same questions
    at the same time, as each has a part of the weights only.

    `autocast` makes the context of the training's number format (accelerate's, once there is a trainer). Answers are
    greedy, and what a model draws beside (MoE-LLaVA's second expert) leaves the generators as they were: the losses are
    the same with and without them.
    """

    def __init__(
        self,
        examples: Sequence[TrainingExample],
        settings: EvaluationRecipe,
        folder: Path,
        *,
        writer: Any = None,
        uses_wandb: bool = False,
    ) -> None:
        self._examples = list(examples)
        self._turns = [Turn("user", e.questions[0] or _DESCRIBE, e.turns[0].images) for e in self._examples]
        self._settings = settings
        self._folder = folder
        self._writer = writer
        self._uses_wandb = uses_wandb
        self.autocast: Callable[[], AbstractContextManager[Any]] = nullcontext

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Every `every_steps` steps."""
        del args, control
        if not self._examples or state.global_step % self._settings.every_steps:
            return
        model: StageModel = kwargs["model"]
        together = has_parts_only(model)
        if not (together or state.is_world_process_zero):
            return
        with parts_callable(model):
            answers = self.answer(model, together=together)
        if state.is_world_process_zero:
            self.write(answers, state.global_step)

    def answer(self, model: StageModel, *, together: bool = False) -> list[str]:
        """An answer to every question; `together`: other processes answer them, too."""
        sampling = Sampling(temperature=0, repetition_penalty=1.0, max_new_tokens=self._settings.max_new_tokens)
        device = model.model.device
        was_training = model.training
        model.eval()
        answers = []
        for turn in self._turns:
            with self.autocast(), torch.random.fork_rng([device] if device.type == "cuda" else []):
                (answer,) = generate(model.model, [[turn]], sampling, synced=together)
            answers.append(answer.text)
        model.train(was_training)
        return answers

    def write(self, answers: Sequence[str], step: int) -> None:
        """Write the answers down and give them to the tracker."""
        folder = self._folder / f"step-{step:06d}"
        folder.mkdir(parents=True, exist_ok=True)
        lines = []
        pictures: dict[str, Image.Image] = {}
        for number, (example, turn, answer) in enumerate(zip(self._examples, self._turns, answers, strict=True)):
            regions = regions_of(parse_grounded_text(answer))
            lines += [f"{number}. {turn.text}", f"   - answer: {answer}", f"   - expected: {example.answers[0]}"]
            lines += [f"   - box {place}: {region.label}" for place, region in enumerate(regions, start=1)]
            for image in turn.images[:1]:
                picture = draw_regions(image, regions)
                picture.save(folder / f"{number}.png")
                pictures[f"sample {number}"] = picture
        text = "\n".join(lines) + "\n"
        (folder / "answers.md").write_text(text, encoding="utf-8")
        if self._writer is not None:
            self._writer.add_text("answers", text, step)
            for title, picture in pictures.items():
                self._writer.add_image(title, np.asarray(picture), step, dataformats="HWC")
        if self._uses_wandb:
            wandb = import_module("wandb")  # only where it is asked for; training does without
            shown = {title: wandb.Image(picture) for title, picture in pictures.items()}
            # By transformers' own step metric: wandb's own counter runs ahead of the training's steps.
            wandb.log({**shown, "answers": wandb.Html(f"<pre>{escape(text)}</pre>"), "train/global_step": step})
