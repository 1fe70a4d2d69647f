"""The bundled model of each family, questions to ask it, and what it answers on the CPU."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from engine.chat_engine import ChatEngine
from engine.generate import generate
from models.conversation import Sampling, Turn
from models.loader import load_model
from models.vision_language_model import VisionLanguageModel
from tests.paths import ROOT
from tests.pretended_gpu.devices import PretendedDevice
from training.scenes.render import render_image
from training.scenes.scene import sample_scene

Gpus = tuple[PretendedDevice, ...]

FAMILIES = ("minigpt4", "minigpt_v2", "tinygpt_v", "mini_gemini", "moe_llava")
GREEDY = Sampling(temperature=0, repetition_penalty=1.05, max_new_tokens=12)


def load(family: str, device: str = "cuda:0", **options: Any) -> VisionLanguageModel:
    """In float32 unless told otherwise."""
    path = ROOT / "eval_configs" / f"tiny_{family}.yaml"
    return load_model(path, device=device, report=None, **{"dtype": "float32", **options})


def start(model: VisionLanguageModel, **options: Any) -> ChatEngine:
    """An engine with few shapes of steps to capture: short conversations, two at a time."""
    model.info = replace(model.info, context_tokens=256)
    return ChatEngine(model, **{"max_concurrent": 2, "kv_bytes": 1 << 26, "update_interval": 0, **options})


def question(number: int) -> tuple[Turn, ...]:
    """A question about a picture of its own."""
    scene = sample_scene(np.random.default_rng(number), held_out="never")
    return (Turn("user", "Describe this image.", (render_image(scene),)),)


def endless(model: VisionLanguageModel) -> VisionLanguageModel:
    """The model with nothing that ends its answers, which are as long as they may be."""
    model.eos_token_ids = (model.text_embedding.num_embeddings + 1,)
    model.prompt_format = replace(model.prompt_format, stop_strings=())
    return model


def without_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with 8-bit and 4-bit weights, or where capturing fails."""
    monkeypatch.setattr("engine.batching.generation_loop.can_use_graphs", lambda _: False)


@functools.cache
def cpu_texts(family: str, count: int = 3, sampling: Sampling = GREEDY) -> tuple[str, ...]:
    """What the model answers to so many questions on the CPU, in float32."""
    model = load(family, "cpu")
    return tuple(generate(model, [question(number)], sampling)[0].text for number in range(count))
