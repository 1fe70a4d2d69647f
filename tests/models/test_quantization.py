"""8-bit and 4-bit loading on the CPU: really applied, close to full precision, and within the memory estimate."""

from __future__ import annotations

from pathlib import Path

import bitsandbytes
import pytest
import torch

from models.conversation import Sampling, Turn
from models.generation import generate
from models.loader import load_model
from models.vision_language_model import VisionLanguageModel

CASE = Path(__file__).resolve().parents[1] / "goldens" / "minigpt_v2"
TURNS = [Turn("user", "[vqa] how many people are there?")]


def load(quantization: str) -> VisionLanguageModel:
    return load_model(CASE / "config.yaml", device="cpu", quantization=quantization, report=lambda _: None)


@pytest.fixture(scope="module")
def full_logits() -> torch.Tensor:
    model = load("none")
    with torch.inference_mode():
        return model.language_model(inputs_embeds=model.embed_prompt(TURNS)[None]).logits


@pytest.mark.parametrize(
    # Random weights have no outliers to protect and no redundancy, so the error is larger than in a trained model;
    # measured here: 0.055 and 0.48 of the logits' spread (unrelated logits would give 1.4).
    ("quantization", "layer", "tolerance"),
    [("8bit", bitsandbytes.nn.Linear8bitLt, 0.08), ("4bit", bitsandbytes.nn.Linear4bit, 0.6)],
)
def test_quantized_model_answers_like_the_full_one(
    quantization: str, layer: type, tolerance: float, full_logits: torch.Tensor
) -> None:
    model = load(quantization)
    quantized = {name for name, module in model.language_model.named_modules() if isinstance(module, layer)}
    # q, k, v, o, gate, up, down of every layer, and no head; the MLP of this case (120 wide) doesn't fit 4-bit blocks.
    assert len(quantized) == 3 * (7 if quantization == "8bit" else 4)
    assert not any(isinstance(module, layer) for module in (*model.vision_tower.modules(), *model.connector.modules()))
    with torch.inference_mode():
        logits = model.language_model(inputs_embeds=model.embed_prompt(TURNS)[None]).logits
    error = ((logits - full_logits).float().pow(2).mean() / full_logits.float().var()).sqrt().item()
    assert 0 < error < tolerance
    assert generate(model, [TURNS], Sampling(temperature=0, max_new_tokens=4))[0].ids
