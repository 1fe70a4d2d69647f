"""Mixtral in 8 and 4 bits: its experts, nearly all of the model, are really shrunk, and it still answers the same."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from transformers import MixtralConfig, MixtralForCausalLM

from models.errors import ConfigError
from models.loader import check_parts, materialise
from models.memory.sizes import weight_bytes
from models.parts.causal_lm import causal_lm_part
from models.quantized.eight_bits import EightBitLinear
from models.quantized.four_bits import FourBitLinear
from models.tensors.weights import Part, Tensors

CPU = torch.device("cpu")
VALUES: dict[str, int] = {
    "vocab_size": 96, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "num_local_experts": 4, "num_experts_per_tok": 2, "max_position_embeddings": 64,
}  # fmt: skip
IN_EXPERTS = VALUES["num_hidden_layers"] * VALUES["num_local_experts"] * 2  # gate and up as one, down
LINEAR = VALUES["num_hidden_layers"] * 2 + IN_EXPERTS  # beside them q, k and v as one, o
IDS = torch.arange(3, 19)[None]


@pytest.fixture(scope="module")
def released() -> Tensors:
    """Random weights by the names of the released files."""
    torch.manual_seed(0)
    tensors: Tensors = {}
    for name, tensor in MixtralForCausalLM(MixtralConfig.from_dict(VALUES)).state_dict().items():
        name = name.replace(".mlp.", ".block_sparse_moe.")
        values = torch.randn_like(tensor) / tensor.shape[-1] ** 0.5 if tensor.dim() > 1 else tensor
        if name.endswith("gate_up_proj"):
            for index, both in enumerate(values):
                gate, up = both.chunk(2)
                tensors[name.replace("gate_up_proj", f"{index}.w1.weight")] = gate.clone()
                tensors[name.replace("gate_up_proj", f"{index}.w3.weight")] = up.clone()
        elif name.endswith("experts.down_proj"):
            for index, down in enumerate(values):
                tensors[name.replace("down_proj", f"{index}.w2.weight")] = down.clone()
        else:
            tensors[name] = values
    return tensors


def part_of(released: Tensors, quantization: str) -> Part:
    part = causal_lm_part(dict(released), dict(VALUES), source="here", is_quantized=quantization != "none")
    check_parts({"language_model": part})
    return part


def load(released: Tensors, quantization: str) -> nn.Module:
    return materialise(part_of(released, quantization), device=CPU, dtype=torch.float32, quantization=quantization)


def logits_of(model: nn.Module) -> Tensor:
    with torch.inference_mode():
        logits: Tensor = model(input_ids=IDS).logits
    return logits


def test_experts_as_linear_layers_compute_what_the_stacked_ones_do(released: Tensors) -> None:
    stacked = load(released, "none")
    separate = materialise(part_of(released, "8bit"), device=CPU, dtype=torch.float32)
    assert type(separate) is not type(stacked)
    assert (logits_of(separate) - logits_of(stacked)).abs().max() < 1e-4


@pytest.mark.parametrize(
    # Random weights have no outliers to protect and no redundancy; unrelated logits would give 1.4.
    ("quantization", "layer", "tolerance"),
    [("8bit", EightBitLinear, 0.15), ("4bit", FourBitLinear, 0.6)],
)
def test_every_expert_is_shrunk(quantization: str, layer: type, tolerance: float, released: Tensors) -> None:
    full = logits_of(load(released, "none"))
    model = load(released, quantization)
    names = [name for name, module in model.named_modules() if isinstance(module, layer) and name != "lm_head"]
    # In either case attention is in 8 bits in the first and in the last layer, which are all that there are here.
    assert len(names) == (LINEAR if quantization == "8bit" else IN_EXPERTS)
    assert sum(".experts." in name for name in names) == IN_EXPERTS
    error = ((logits_of(model) - full).pow(2).mean() / full.var()).sqrt().item()
    assert 0 < error < tolerance


@pytest.mark.parametrize("quantization", ["8bit", "4bit"])
def test_the_estimate_is_what_is_taken(quantization: str, released: Tensors) -> None:
    model = load(released, quantization)
    eight = [layer for layer in model.modules() if isinstance(layer, EightBitLinear)]
    taken = sum(tensor.nbytes for tensor in model.parameters())
    taken += sum(layer.in_features * layer.out_features + 4 * layer.out_features for layer in eight)
    estimate = weight_bytes([part_of(released, quantization)], torch.float32, quantization, on_cpu=True)
    assert taken == pytest.approx(estimate, rel=0.1)  # the estimate adds the scales, and shrinks the small routers


@pytest.mark.parametrize("quantization", ["8bit", "4bit"])
def test_layers_that_stay_at_full_size_are_not_passed_over(quantization: str, released: Tensors) -> None:
    stacked = part_of(released, "none")
    with pytest.raises(ConfigError, match=rf"{quantization} loading left 2 layers .*first: model\.layers\.0\.mlp\.exp"):
        materialise(stacked, device=CPU, dtype=torch.float32, quantization=quantization)
