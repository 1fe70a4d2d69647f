"""The comparison of `chats` on the models that ship: real answers to real questions, ended by their own end token."""

from __future__ import annotations

import gc
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from benchmarks.chats import ChatsWork, compare
from benchmarks.measure import Clock, SpeedReport
from models.conversation import Turn
from models.loader import load_model
from training.scenes.render import render_image
from training.scenes.scene import sample_scene

CONFIGS = tuple(sorted(Path("eval_configs").glob("tiny_*.yaml")))
_QUESTIONS = (
    "Describe the image.",
    "What do you see?",
    "How many objects are there?",
    "What is in the picture? Name everything.",
    "Tell me about the image in detail.",
)


def run(work: ChatsWork, clock: Clock, report: SpeedReport, goals: Mapping[str, float]) -> None:
    """Every bundled model over drawn scenes."""
    for path in CONFIGS:
        model = load_model(path, device="cpu", dtype="float32", report=None)
        scenes = [sample_scene(np.random.default_rng(seed), min_objects=3) for seed in range(work.chats)]
        images = [Turn("user", "", (render_image(scene),)) for scene in scenes]
        compare(
            model,
            work,
            clock,
            report,
            setting=f"{model.info.name}, float32",
            goals=goals,
            images=images,
            ask=lambda repetition, number, turn: Turn(
                "user", _QUESTIONS[(repetition + number) % len(_QUESTIONS)], turn.images
            ),
        )
        del model
        gc.collect()
