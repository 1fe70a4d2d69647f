"""8-bit and 4-bit loading on the CPU: really applied, close to full precision, and within the memory estimate."""

from __future__ import annotations

from typing import cast

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from engine.chat_engine import ChatEngine
from engine.generate import generate
from models.conversation import Sampling, Turn
from models.errors import ConfigError
from models.loader import load_model, materialise
from models.quantization import check_quantized
from models.quantized.eight_bits import EightBitLinear
from models.quantized.four_bits import FourBitLinear
from models.tensors.weights import Part
from models.vision_language_model import VisionLanguageModel
from tests.paths import GOLDENS

TURNS = [Turn("user", "[vqa] how many people are there?")]
# Linear layers of the language model but the head: q with k and v, o, gate with up, down; q with k and v, dense, fc1,
# fc2; in three layers each, of which 4 bits leave out the first and the last. Rows of the second case are half a block
# of 4-bit numbers, so q, k and v stay apart there.
LAYERS = {
    "minigpt_v2": {"8bit": 3 * 4, "4bit": 4},
    "tinygptv-stage3": {"8bit": 3 * 4, "4bit": 6},
}


def load(case: str, quantization: str) -> VisionLanguageModel:
    return load_model(GOLDENS / case / "config.yaml", device="cpu", quantization=quantization, report=None)


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
    [("8bit", EightBitLinear, 0.08), ("4bit", FourBitLinear, 0.6)],
)
def test_quantized_model_answers_like_the_full_one(
    quantization: str, layer: type, tolerance: float, full: tuple[str, torch.Tensor]
) -> None:
    case, full_logits = full
    model = load(case, quantization)
    quantized = [name for name, module in model.language_model.named_modules() if isinstance(module, layer)]
    assert isinstance(model.language_model.get_output_embeddings(), EightBitLinear)
    assert len(quantized) == LAYERS[case][quantization] + (layer is EightBitLinear)
    assert not any(isinstance(module, layer) for module in (*model.vision_tower.modules(), *model.connector.modules()))
    error = ((logits_of(model) - full_logits).float().pow(2).mean() / full_logits.float().var()).sqrt().item()
    assert 0 < error < tolerance
    assert generate(model, [TURNS], Sampling(temperature=0, max_new_tokens=4))[0].ids
    with ChatEngine(model) as engine:
        *_, last = engine.stream(TURNS, Sampling(temperature=0, max_new_tokens=4))
    assert last.num_new_tokens == 4


@pytest.mark.parametrize("quantization", ["8bit", "4bit"])
def test_a_module_in_which_nothing_was_quantized_is_refused(quantization: str) -> None:
    part = Part(name="language model", source="here", module_class=nn.LayerNorm, config={}, tensors={})
    with pytest.raises(ConfigError, match=f"^here: {quantization} loading changed no layer of the language model; use"):
        check_quantized(nn.LayerNorm(4), part, quantization)


@pytest.mark.parametrize("case", ["minigpt_v2", "moe-llava-stablelm"])
def test_4_bits_leave_the_first_and_the_last_layer_in_8(case: str) -> None:
    """As 8-bit loading has them, but for bitsandbytes' rounding to float16; experts, which are many, stay in 4."""
    quantized, wide = (load(case, quantization).language_model for quantization in ("4bit", "8bit"))
    found = {name: layer for name, layer in quantized.named_modules() if isinstance(layer, EightBitLinear)}
    layers = wide.config.num_hidden_layers
    numbers = {name.split(".layers.")[1].split(".")[0] for name in found if ".layers." in name}
    assert numbers == {"0", str(layers - 1)}
    assert not any("expert" in name for name in found)
    for name, layer in found.items():
        inputs = torch.randn(3, layer.in_features, generator=torch.Generator().manual_seed(0))
        expected = wide.get_submodule(name)(inputs)
        assert (layer(inputs) - expected).norm() < 0.005 * expected.norm(), name


@pytest.mark.parametrize("shape", [(128, 352), (128, 128), (96, 32), (24, 120)], ids=str)
@pytest.mark.parametrize("rows", [1, 5])
def test_a_4bit_product_is_as_exact_for_every_width(shape: tuple[int, int], rows: int) -> None:
    """Whatever the width of a layer, its weights are off by what 16 levels for 64 weights cost: 9 % of their size."""
    config = LlamaConfig(
        hidden_size=shape[1], intermediate_size=shape[0], num_hidden_layers=3, num_attention_heads=1, vocab_size=40
    )
    full = LlamaForCausalLM(config).eval()
    part = Part(
        name="language model", source="here", module_class=LlamaForCausalLM, config=config, is_quantizable=True,
        tensors={name: tensor.detach().clone() for name, tensor in full.state_dict().items()},
    )  # fmt: skip
    quantized = materialise(part, device=torch.device("cpu"), dtype=torch.float32, quantization="4bit")
    for name in ("gate_proj", "down_proj"):
        mine, exact = (
            cast(nn.Linear, model.get_submodule(f"model.layers.1.mlp.{name}")) for model in (quantized, full)
        )
        inputs = torch.randn(64, rows, exact.in_features, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            error = torch.stack([mine(one) for one in inputs]) - exact(inputs)
            assert 0.07 < (error.norm() / exact(inputs).norm()).item() < 0.12, name
