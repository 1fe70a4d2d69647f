"""Compiled products of integers: what torch's operators give, for each token alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models.native import integer_products as compiled
from models.native.integer_products import IntegerProducts, integer_products
from models.quantized import eight_bits, four_bits
from models.quantized.eight_bits import EightBitLinear, IntegerProduct, quantize_rows
from models.quantized.four_bits import BLOCK, FourBitLinear
from models.tensors.bnb_nf4 import quantize

pytestmark = pytest.mark.skipif(integer_products() is None, reason="there is no compiled code on this machine")
KINDS = pytest.mark.parametrize("kind", [EightBitLinear, FourBitLinear])
SIZES = pytest.mark.parametrize("shape", [(64, 64), (192, 576), (128, 1024)], ids=str)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def made(kind: type[nn.Module], shape: tuple[int, int], *, has_bias: bool = True) -> Any:
    """A layer of random weights, a few of them large."""
    weight, bias = random(*shape), random(shape[0], seed=1) if has_bias else None
    weight[::7, 5] *= 6
    if kind is EightBitLinear:
        return EightBitLinear(*quantize_rows([weight], weight.shape), bias)
    codes, scales = quantize(weight, BLOCK, "nf4", torch.uint8)
    return FourBitLinear(codes, scales, weight.shape, bias, is_fused=False)


def with_torch(kind: type[nn.Module], shape: tuple[int, int], *, has_bias: bool = True) -> Any:
    """The same layer as it is without compiled code, where many tokens are multiplied as integers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(eight_bits, "integer_products", lambda: None)
        patch.setattr(four_bits, "integer_products", lambda: None)
        return made(kind, shape, has_bias=has_bias)


def tokens_of(count: int, width: int) -> Tensor:
    """Each of a size of its own, every third with a number far above its others."""
    tokens = random(count, width) * torch.logspace(-4, 3, count)[:, None]
    tokens[::3, 11] *= 50
    return tokens


@KINDS
@SIZES
@pytest.mark.parametrize("has_bias", [False, True])
def test_a_product_is_torchs(
    kind: type[nn.Module], shape: tuple[int, int], has_bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, theirs = made(kind, shape, has_bias=has_bias), with_torch(kind, shape, has_bias=has_bias)
    monkeypatch.setattr(four_bits, "multiplies_integers_faster", lambda: False)
    # Torch's way does not round tokens and weights to 8 bits in a 4-bit layer.
    worst = 1e-5 if kind is EightBitLinear else 0.03
    for count in (1, 7, 40):
        tokens = tokens_of(count, shape[1])
        errors = (mine(tokens) - theirs(tokens)).norm(dim=1) / theirs(tokens).norm(dim=1)
        assert errors.max() < worst
        as_bf16 = mine(tokens.bfloat16())
        assert as_bf16.dtype == torch.bfloat16
        torch.testing.assert_close(as_bf16, mine(tokens.bfloat16().float()).bfloat16(), rtol=0, atol=0)
    assert mine(random(0, shape[1])).shape == (0, shape[0])
    assert mine(random(2, 3, shape[1]).half()).dtype == torch.float16


def test_weights_of_4_bits_are_rounded_to_8_by_rows() -> None:
    layer, plain = (make(FourBitLinear, (96, 576), has_bias=False) for make in (made, with_torch))
    found, weight = layer(torch.eye(576)).T, plain._numbers(0, 96)
    step = weight.abs().amax(1, keepdim=True).bfloat16().float() / 127  # as scales are in bfloat16
    assert (found / step - (found / step).round()).abs().max() < 1e-3
    assert ((found - weight).abs() / step).max() < 1.1  # half a step, and what bfloat16 makes of scales


@KINDS
@pytest.mark.parametrize("threads", [1, 2])
def test_a_token_is_the_same_bits_in_every_company(kind: type[nn.Module], threads: int) -> None:
    layer, tokens = made(kind, (192, 576)), tokens_of(70, 576)
    together, before = layer(tokens), torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for count in (1, 2, 5, 12, 31):
            assert torch.equal(torch.cat([layer(part) for part in tokens.split(count)]), together), count
    finally:
        torch.set_num_threads(before)


@KINDS
def test_what_is_zero_huge_or_no_number_stays_with_its_token(kind: type[nn.Module]) -> None:
    layer, tokens = made(kind, (64, 128), has_bias=False), random(6, 128)
    before = layer(tokens)
    tokens[0], tokens[2, 3], tokens[4, 5], tokens[5] = 0, float("nan"), float("-inf"), tokens[5] * 1e34
    after = layer(tokens)
    assert not after[0].any()
    assert torch.equal(after[[1, 3]], before[[1, 3]])
    assert not after[[2, 4]].isfinite().any()
    torch.testing.assert_close(after[5], before[5] * 1e34, rtol=1e-4, atol=1e30)


@pytest.fixture
def asked_anew() -> Iterator[None]:
    integer_products.cache_clear()
    yield
    integer_products.cache_clear()


@pytest.mark.usefixtures("asked_anew")
def test_weights_that_lie_otherwise_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As they would in another version of oneDNN."""
    real = torch.ops.onednn.qlinear_prepack

    class OtherOrder:
        qlinear_prepack = staticmethod(lambda weights, shape: real(weights.flip(0), shape))

    monkeypatch.setattr(torch.ops, "onednn", OtherOrder)
    assert integer_products() is None


@pytest.mark.parametrize("shape", [(96, 64), (64, 96)], ids=str)
def test_sizes_that_the_code_does_not_take(shape: tuple[int, int]) -> None:
    layer = made(EightBitLinear, shape)
    assert isinstance(layer.product, IntegerProduct)
    tokens = tokens_of(3, shape[1])
    assert torch.equal(layer(tokens), with_torch(EightBitLinear, shape)(tokens))
    assert compiled.address_of(layer.product.packed) is None
    assert isinstance(integer_products(), IntegerProducts)
