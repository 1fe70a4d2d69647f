"""8-bit and 4-bit loading on the CPU: really applied, close to full precision, and within the memory estimate."""

from __future__ import annotations

from pathlib import Path

import bitsandbytes
import pytest
import torch

from app.engine import ChatEngine
from models.conversation import Sampling, Turn
from models.generation import generate
from models.loader import load_model
from models.vision_language_model import VisionLanguageModel

GOLDENS = Path(__file__).resolve().parents[1] / "goldens"
TURNS = [Turn("user", "[vqa] how many people are there?")]
# Linear layers of the language model: q, k, v, o, gate, up, down; q, k, v, dense, fc1, fc2; in three layers each.
LAYERS = {"minigpt_v2": 3 * 7, "tinygptv-stage3": 3 * 6}


def load(case: str, quantization: str) -> VisionLanguageModel:
    return load_model(GOLDENS / case / "config.yaml", device="cpu", quantization=quantization, report=lambda _: None)


def logits_of(model: VisionLanguageModel) -> torch.Tensor:
    with torch.inference_mode():
        logits: torch.Tensor = model.language_model(inputs_embeds=model.embed_prompt(TURNS)[None]).logits
    return logits


@pytest.fixture(scope="module", params=LAYERS)
def full(request: pytest.FixtureRequest) -> tuple[str, torch.Tensor]:
    """A case and its logits in full precision."""
    return request.param, logits_of(load(request.param, "none"))


@pytest.mark.parametrize(
    # Random weights have no outliers to protect and no redundancy, so the error is larger than in a trained model;
    # measured here: at most 0.06 and 0.48 of the logits' spread (unrelated logits would give 1.4).
    ("quantization", "layer", "tolerance"),
    [("8bit", bitsandbytes.nn.Linear8bitLt, 0.08), ("4bit", bitsandbytes.nn.Linear4bit, 0.6)],
)
def test_quantized_model_answers_like_the_full_one(
    quantization: str, layer: type, tolerance: float, full: tuple[str, torch.Tensor]
) -> None:
    case, full_logits = full
    model = load(case, quantization)
    quantized = [name for name, module in model.language_model.named_modules() if isinstance(module, layer)]
    assert len(quantized) == LAYERS[case]  # all of them, and not the head
    assert not any(isinstance(module, layer) for module in (*model.vision_tower.modules(), *model.connector.modules()))
    error = ((logits_of(model) - full_logits).float().pow(2).mean() / full_logits.float().var()).sqrt().item()
    assert 0 < error < tolerance
    assert generate(model, [TURNS], Sampling(temperature=0, max_new_tokens=4))[0].ids
    with ChatEngine(model) as engine:
        *_, last = engine.stream(TURNS, Sampling(temperature=0, max_new_tokens=4))
    assert last.num_new_tokens == 4
