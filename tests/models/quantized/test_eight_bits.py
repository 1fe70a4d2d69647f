"""Products of 8-bit weights: what the integers say, for each token alone, on every kind of CPU."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
import torch
from bitsandbytes.functional import int8_vectorwise_quant
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from models.quantized import eight_bits
from models.quantized.eight_bits import EightBitLinear, Product, Route, best_route, quantize_rows
from tests.paths import ROOT

EXACT: tuple[Route, ...] = (eight_bits.IntegerProduct,) if eight_bits.has_exact_integers() else ()
ROUTES = (*EXACT, eight_bits._numbers)


@pytest.fixture(params=ROUTES, ids=lambda route: route.__name__)
def route(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Route:
    """Each way of multiplying that there is on this machine, as if it were its best."""
    monkeypatch.setattr(eight_bits, "best_route", lambda: request.param)
    found: Route = request.param
    return found


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def rounded_once(tokens: Tensor) -> Tensor:
    """Tokens as they are after 8 bits."""
    largest = tokens.abs().amax(-1, keepdim=True).clamp(min=1e-30)
    return (tokens / largest * 127).round() * largest / 127


def layer(
    outputs: int = 130, inputs: int = 96, *, has_bias: bool = True
) -> tuple[EightBitLinear, Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """A layer, what its integers give with tokens of 8 bits, and with tokens as they are: both in 64 bits."""
    integers, scales = quantize_rows([random(outputs, inputs)], torch.Size((outputs, inputs)))
    bias = random(outputs, seed=1) if has_bias else None
    weight, added = integers.double() * scales.double()[:, None], 0.0 if bias is None else bias.double()

    def rounded(tokens: Tensor) -> Tensor:
        return rounded_once(tokens.double()) @ weight.T + added

    return EightBitLinear(integers, scales, bias), rounded, lambda tokens: tokens.double() @ weight.T + added


@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("shape", [(130, 96), (64, 256), (7, 33), (1, 1), (300, 1025)], ids=str)
def test_a_product_is_what_the_integers_say(shape: tuple[int, int], has_bias: bool, route: Route) -> None:
    mine, rounded, plain = layer(*shape, has_bias=has_bias)
    expected = rounded if route in EXACT else plain
    for tokens in (random(1, shape[1]), random(2, 9, shape[1]), random(shape[1], 5).T, random(70, shape[1]) * 1e4):
        wanted = expected(tokens)
        torch.testing.assert_close(mine(tokens).double(), wanted, rtol=1e-4, atol=1e-4 * float(wanted.abs().max()))
    assert mine(random(0, shape[1])).shape == (0, shape[0])


@pytest.mark.parametrize("route", EXACT, ids=lambda route: route.__name__, indirect=True)
def test_what_rounding_leaves_of_a_token_with_a_peak_is_not_lost(route: Route) -> None:
    """As bitsandbytes keeps features of 6 and more apart, but for each token by itself."""
    del route
    mine, _, plain = layer(64, 1024, has_bias=False)
    tokens = random(5, 1024)
    tokens[2, 77], tokens[4, [5, 600]] = 200, torch.tensor([-190.0, 210])
    without = tokens.index_fill(1, torch.tensor([5, 77, 600]), 0)
    errors = (mine(tokens) - plain(tokens)).norm(dim=1) / plain(without).norm(dim=1)
    once = (plain(rounded_once(tokens)) - plain(tokens)).norm(dim=1) / plain(without).norm(dim=1)
    assert once[[2, 4]].min() > 0.05
    assert errors[[2, 4]].max() < 0.004
    torch.testing.assert_close(errors[[0, 1, 3]], once[[0, 1, 3]], rtol=0.01, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("route", EXACT, ids=lambda route: route.__name__, indirect=True)
def test_a_token_is_the_same_bits_in_every_company(dtype: torch.dtype, route: Route) -> None:
    del route
    mine = layer(130, 200)[0]
    tokens = random(70, 200) * torch.logspace(-4, 3, 70)[:, None]  # each of a size of its own
    tokens[::3, 11] *= 50
    tokens = tokens.to(dtype)
    together = mine(tokens)
    assert together.dtype == dtype
    for count in (1, 2, 3, 8, 33, 64):
        parts = torch.cat([mine(part) for part in tokens.split(count)])
        assert torch.equal(parts, together), count


def test_what_is_zero_huge_or_no_number_stays_with_its_token(route: Route) -> None:
    del route
    mine, _, plain = layer()
    tokens = random(6, 96)
    before = mine(tokens)
    tokens[0], tokens[2, 3], tokens[4, 5] = 0, float("nan"), float("inf")
    tokens[5, 7] = 1e34
    after = mine(tokens)
    torch.testing.assert_close(after[0].double(), plain(tokens[:1])[0], rtol=1e-5, atol=1e-5)
    assert torch.equal(after[[1, 3]], before[[1, 3]])
    assert not after[[2, 4]].isfinite().any()
    torch.testing.assert_close(after[5].double(), plain(tokens[5:])[0], rtol=1e-2, atol=1e32)


def test_rows_of_zeros_and_outputs_that_are_left_out(route: Route) -> None:
    del route
    weight = random(20, 64)
    weight[3] = 0
    mine = EightBitLinear(*quantize_rows([weight[:7], weight[7:]], weight.shape), None)
    all_outputs = mine(random(4, 64))
    assert all_outputs.isfinite().all()
    assert not all_outputs[:, 3].any()
    mine.limit(13)
    assert torch.equal(mine(random(4, 64)), all_outputs[:, :13])
    mine.limit(50)
    assert mine(random(2, 2, 64)).shape == (2, 2, 13)


def test_the_integers_are_bitsandbytes() -> None:
    weight = random(50, 200).half()
    integers, scales = quantize_rows(weight.split(9), weight.shape)
    theirs, largest, _ = int8_vectorwise_quant(weight)
    assert torch.equal(integers, theirs)
    assert torch.equal(scales, largest / 127)


def test_a_layer_is_made_without_copies_larger_than_itself(route: Route) -> None:
    """A head of 205 million weights had 0.8 GiB of their sums' numbers beside it."""
    integers = torch.randint(-127, 128, (2000, 1024), dtype=torch.int8)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        route(integers, torch.ones(2000))
    assert max(event.self_cpu_memory_usage for event in seen.events()) < 1.5 * integers.nbytes


def saturating(integers: Tensor, scales: Tensor) -> Product:
    """As kernels are on CPUs without instructions for sums of bytes: two products are added in 16 bits."""

    def product(tokens: Tensor) -> Tensor:
        largest = tokens.abs().amax(-1, keepdim=True)
        unsigned = (tokens / largest * 127).round() + 128
        pairs = (unsigned[:, None] * integers).unflatten(-1, (-1, 2)).sum(-1).clamp(-(2**15), 2**15 - 1)
        return (pairs.sum(-1) - 128 * integers.float().sum(-1)) * scales * largest / 127

    return product


def missing(integers: Tensor, scales: Tensor) -> Product:
    del integers, scales
    raise AttributeError("'_OpNamespace' 'onednn' object has no attribute 'qlinear_prepack'")


@pytest.fixture
def forgotten() -> Iterator[None]:
    """The choice is made anew, and again afterwards."""
    best_route.cache_clear()
    yield
    best_route.cache_clear()


@pytest.mark.parametrize("wrong", [saturating, missing])
@pytest.mark.usefixtures("forgotten")
def test_sums_that_come_out_wrong_are_noticed(wrong: Route, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eight_bits, "IntegerProduct", wrong)
    assert best_route() is eight_bits._numbers


@pytest.mark.skipif(not EXACT, reason="this CPU has no exact products of integers to go without")
def test_a_cpu_without_instructions_for_it_multiplies_numbers() -> None:
    """torch's kernels are told to know AVX2 only, as on CPUs before 2019."""
    program = """if True:
        import torch
        from models.quantized.eight_bits import EightBitLinear, best_route, quantize_rows
        torch.manual_seed(0)
        weight, tokens = torch.randn(130, 200), torch.randn(9, 200)
        mine = EightBitLinear(*quantize_rows([weight], weight.shape), None)
        worst = (mine(tokens) - tokens @ weight.T).norm() / (tokens @ weight.T).norm()
        print(best_route().__name__, float(worst) < 0.01)
    """
    old = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=os.environ | old, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["_numbers", "True"]
