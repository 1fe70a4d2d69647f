"""Small models with weights of every kind, for tests of steps in C."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.models.mixtral.modeling_mixtral import MixtralTopKRouter

from benchmarks import random_models
from engine.native import native_step
from engine.packed_weights import pack_weights
from models.native.compiled import NoNativeCode, library
from models.parts.joined import SAME_INPUTS, put_joined
from models.parts.sparse_moe import Router
from models.quantized.eight_bits import EightBitLinear, has_exact_integers, quantize_rows
from models.quantized.four_bits import BLOCK, FourBitLinear

SIZE = dataclasses.replace(random_models.SMALL, inner=128, heads=4, key_value_heads=2)
HAS_BF16 = torch.cpu._is_avx512_bf16_supported()  # without it bitsandbytes has other 4-bit weights
SHRUNK = [kind for kind in ("8bit", "4bit") if has_exact_integers() and (kind == "8bit" or HAS_BF16)]
each_shrunk = pytest.mark.parametrize("kind", SHRUNK)
each_kind = pytest.mark.parametrize("kind", ["float32", "bfloat16", *SHRUNK])


@pytest.fixture(autouse=True)
def need_compiled_code() -> None:
    """Nothing to test without it."""
    try:
        library(native_step._SOURCE)
    except NoNativeCode as reason:
        pytest.skip(f"no compiled code: {reason}")


def made(backbone: str = "llama", kind: str = "float32", *, is_packed: bool = True) -> PreTrainedModel:
    """A model with weights of a kind: a number format, or 8 or 4 bits."""
    dtype = torch.bfloat16 if kind in ("8bit", "4bit") else getattr(torch, kind)
    model = random_models.random_model(backbone, SIZE, dtype=dtype, context_tokens=64).language_model.eval()
    for module in model.modules():
        if isinstance(module, Router | MixtralTopKRouter):  # rounding must not decide between experts
            module.weight.data.mul_(20)
    if kind in ("8bit", "4bit"):
        shrink(model.model.layers, kind)
    if is_packed:
        pack_weights(model, least_weights=1)
    return model


def shrink(parent: nn.Module, kind: str) -> None:
    """As loading does: layers of the same inputs become one."""
    for names in SAME_INPUTS:
        layers = [layer for name in names if isinstance(layer := getattr(parent, name, None), nn.Linear)]
        if len(layers) == len(names):
            put_joined(parent, names, shrunk(layers, kind), [layer.out_features for layer in layers])
    for name, child in parent.named_children():
        if isinstance(child, nn.Linear):
            setattr(parent, name, shrunk([child], kind))
        else:
            shrink(child, kind)


def shrunk(layers: Sequence[nn.Linear], kind: str) -> nn.Module:
    weight = torch.cat([layer.weight.detach() for layer in layers])
    biases = [layer.bias.detach() for layer in layers if layer.bias is not None]
    bias = torch.cat(biases) if biases else None
    if kind == "8bit":
        return EightBitLinear(*quantize_rows([weight], weight.shape), bias)
    from bitsandbytes.functional import quantize_4bit

    codes, state = quantize_4bit(weight, blocksize=BLOCK, quant_type="nf4")
    return FourBitLinear(codes, state.absmax.float(), weight.shape, bias, is_fused=True)


def error(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())
