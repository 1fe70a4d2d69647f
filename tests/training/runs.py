"""What tests do with a run of a stage: end it half-way, keep its model, read its losses, compare what it leaves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from models.conversation import Turn
from models.loader import load_model
from models.vision_language_model import VisionLanguageModel
from training.data.readers import open_image
from training.stages.stage_model import StageModel


class Stopped(Exception):
    """Stands for whatever ends a run."""


class StopAt(TrainerCallback):
    """Ends a run in the middle of a step, after the optimiser and before anything of it is saved."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step + 1 == self.step:
            raise Stopped


class KeepModel(TrainerCallback):
    """Holds on to the model as training leaves it."""

    model: VisionLanguageModel

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        assert isinstance(kwargs["model"], StageModel)
        self.model = kwargs["model"].model


def losses(folder: Path, step: int = 6) -> list[float]:
    state = json.loads((folder / "output" / "checkpoints" / f"checkpoint-{step}" / "trainer_state.json").read_text())
    return [entry["loss"] for entry in state["log_history"] if "loss" in entry]


def assert_same_answers(trained: VisionLanguageModel, result: Path, folder: Path, *, is_rounded: bool) -> None:
    """The exported model's logits are the trained one's (with weights rounded to bf16, where the files are)."""
    trained.eval()
    if is_rounded:
        for parameter in (*trained.language_model.parameters(), *trained.connector.parameters()):
            parameter.data = parameter.data.bfloat16().float()
    loaded = load_model(result, device="cpu", report=None)
    turns = [Turn("user", "what is this?", (open_image(folder / "data" / "a.png"),))]
    with torch.inference_mode():
        expected, actual = (
            model.language_model(inputs_embeds=model.embed_prompt(turns)[None]).logits for model in (trained, loaded)
        )
    assert (expected - actual).abs().max() < 1e-4
