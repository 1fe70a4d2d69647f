"""8-bit numbers made on a CPU are the very bits that bitsandbytes makes itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from bitsandbytes.functional import int8_vectorwise_quant
from torch import Tensor

from models.loader import load_model
from models.quantization import quantization_config
from models.quantized.eight_bits import EightBitLinear
from models.tensors import bnb_int8
from tests.paths import GOLDENS


@contextmanager
def without_ours() -> Iterator[None]:
    """bitsandbytes as it is."""
    quantization_config("8bit", torch.float32)
    bnb_int8.install()._destroy()
    bnb_int8.install.cache_clear()
    try:
        yield
    finally:
        bnb_int8.install()


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("shape", [(50, 200), (3, 1), (700, 96), (2, 40000)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.bfloat16], ids=str)
def test_bits_are_bitsandbytes(shape: tuple[int, int], dtype: torch.dtype) -> None:
    rows = random(*shape).to(dtype)
    with without_ours():
        expected = int8_vectorwise_quant(rows)
    integers, largest, columns = int8_vectorwise_quant(rows)
    assert torch.equal(integers, expected[0])
    assert torch.equal(largest, expected[1])
    assert columns is None
    integers, largest = bnb_int8.quantize(torch.cat((rows, torch.zeros_like(rows[:1]))))
    assert torch.equal(integers[:-1], expected[0])
    assert not integers[-1].any()
    assert largest[-1] == 0


def test_tokens_with_a_threshold_are_rounded_by_bitsandbytes() -> None:
    tokens = random(5, 64).half()
    tokens[1, 7] = 9
    with without_ours():
        expected = int8_vectorwise_quant(tokens.clone(), threshold=6.0)
    for mine, theirs in zip(int8_vectorwise_quant(tokens, threshold=6.0), expected, strict=True):
        assert torch.equal(mine, theirs)
    assert expected[2].tolist() == [7]


def test_loading_quantizes_this_way(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes, round_rows = [], bnb_int8.round_rows

    def count(rows: Tensor, integers: Tensor, largest: Tensor) -> None:
        sizes.append(rows.numel())
        round_rows(rows, integers, largest)

    monkeypatch.setattr(bnb_int8, "round_rows", count)
    model = load_model(GOLDENS / "minigpt_v2" / "config.yaml", device="cpu", quantization="8bit", report=None)
    layers = [layer for layer in model.language_model.modules() if isinstance(layer, EightBitLinear)]
    head = model.language_model.get_output_embeddings()
    assert sum(sizes) == sum(layer.in_features * layer.out_features for layer in layers if layer is not head)
