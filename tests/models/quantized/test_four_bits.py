"""Products of 4-bit weights: those that bitsandbytes' numbers give, whichever way this CPU takes."""

from __future__ import annotations

import pytest
import torch
from bitsandbytes.functional import QuantState, _convert_weight_packed_for_cpu, dequantize_4bit, has_avx512bf16
from torch import Tensor

from models.quantized import four_bits
from models.quantized.eight_bits import has_exact_integers
from models.quantized.four_bits import BLOCK, FourBitLinear
from models.tensors.bnb_nf4 import quantize

with_fused = pytest.mark.skipif(not has_avx512bf16(), reason="bitsandbytes has no 4-bit product for this CPU")


@pytest.fixture
def without_compiled_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(four_bits, "integer_products", lambda: None)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def made(shape: tuple[int, int], *, is_fused: bool, has_bias: bool = True) -> tuple[FourBitLinear, Tensor, Tensor]:
    """A layer, the weights that its codes stand for, and its bias."""
    codes, scales = quantize(random(*shape), BLOCK, "nf4", torch.uint8)
    state = QuantState(scales, torch.Size((1, shape[0] * shape[1])), blocksize=BLOCK, quant_type="nf4")
    state.dtype = torch.float32
    weight = dequantize_4bit(codes, state).view(shape)
    bias = random(shape[0], seed=1) if has_bias else None
    layer = FourBitLinear(codes, scales, torch.Size(shape), bias, is_fused=is_fused)
    return layer, weight, torch.zeros(shape[0]) if bias is None else bias


@pytest.mark.usefixtures("without_compiled_code")
@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("shape", [(96, 128), (70, 64), (128, 352), (24, 120)], ids=str)
def test_a_matrix_in_pieces_is_the_whole_matrix(
    shape: tuple[int, int], has_bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(four_bits, "_TILE", 3 * shape[1])  # three rows
    monkeypatch.setattr(four_bits, "multiplies_integers_faster", lambda: False)
    layer, weight, bias = made(shape, is_fused=False, has_bias=has_bias)
    for tokens in (random(1, shape[1]), random(3, 15, shape[1]), random(0, shape[1])):
        torch.testing.assert_close(layer(tokens), tokens @ weight.T + bias, rtol=1e-4, atol=1e-4)
    assert layer(random(2, shape[1]).bfloat16()).dtype == torch.bfloat16


@pytest.mark.usefixtures("without_compiled_code")
@pytest.mark.skipif(not has_exact_integers(), reason="this CPU has no exact products of integers")
def test_many_tokens_are_multiplied_as_integers_where_that_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(four_bits, "_TILE", 7 * 256)
    monkeypatch.setattr(four_bits, "multiplies_integers_faster", lambda: True)
    layer, weight, bias = made((96, 256), is_fused=False)
    tokens = random(40, 256) * torch.logspace(-3, 3, 40)[:, None]
    mine, expected = layer(tokens), tokens @ weight.T + bias
    errors = (mine - expected).norm(dim=1) / (expected - bias).norm(dim=1)
    assert 0.002 < errors.max() < 0.02
    assert torch.equal(layer(tokens[3:36]), mine[3:36])
    torch.testing.assert_close(layer(tokens[:2]), expected[:2], rtol=1e-4, atol=1e-4)  # few: as numbers


@with_fused
@pytest.mark.parametrize("compiled", [False, True])
def test_bitsandbytes_product_gets_the_bytes_that_it_makes_itself(
    compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not compiled:
        monkeypatch.setattr(four_bits, "block_codes", lambda: None)
    shape = torch.Size((96, 128))
    codes, scales = quantize(random(*shape), BLOCK, "nf4", torch.uint8)
    layer = FourBitLinear(codes, scales, shape, None, is_fused=True)
    state = QuantState(scales, shape, blocksize=BLOCK, quant_type="nf4")
    theirs, state = _convert_weight_packed_for_cpu(codes.clone(), state)
    assert layer.is_fused
    assert torch.equal(layer.codes, theirs)
    assert torch.equal(layer.scales, state.absmax)


@with_fused
@pytest.mark.usefixtures("without_compiled_code")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_token_is_the_same_in_every_company(dtype: torch.dtype) -> None:
    layer, weight, bias = made((96, 192), is_fused=True)
    tokens = random(70, 192).to(dtype)
    together, expected = layer(tokens), tokens.float() @ weight.T + bias
    assert (together - expected).norm() < 0.01 * expected.norm()
    for count in (1, 3, 33):
        assert torch.equal(torch.cat([layer(part) for part in tokens.split(count)]), together), count


def test_sizes_that_bitsandbytes_product_does_not_take() -> None:
    for shape in ((96, 352), (70, 128)):
        layer, weight, bias = made(shape, is_fused=True)
        assert not layer.is_fused
        tokens = random(3, shape[1])
        torch.testing.assert_close(layer(tokens), tokens @ weight.T + bias, rtol=1e-4, atol=1e-4)
