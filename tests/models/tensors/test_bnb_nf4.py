"""4-bit numbers made on a CPU are the very bits that bitsandbytes makes itself."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from bitsandbytes.functional import QuantState, get_4bit_type, quantize_4bit
from torch import Tensor

from models.loader import load_model
from models.native.block_codes import block_codes
from models.quantization import quantization_config
from models.tensors import bnb_nf4
from tests.paths import GOLDENS

FP32, FP16, BF16 = torch.float32, torch.float16, torch.bfloat16


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a small matrix has several."""
    for name in ("_PIECE", "_LARGE_PIECE"):
        monkeypatch.setattr(bnb_nf4, name, 2**12)


@pytest.fixture
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With torch alone, or by compiled code where there is any."""
    if request.param == "torch":
        monkeypatch.setattr(bnb_nf4, "block_codes", lambda: None)
    elif block_codes() is None:
        pytest.skip("there is no compiled code on this machine")


@pytest.fixture(scope="module")
def theirs() -> Callable[..., tuple[Tensor, QuantState]]:
    """bitsandbytes as it is without us, in a call of its own."""
    quantization_config("4bit", FP32)

    def without_ours(*args: object, **options: object) -> tuple[Tensor, QuantState]:
        bnb_nf4.install()._destroy()
        bnb_nf4.install.cache_clear()
        try:
            return quantize_4bit(*args, **options)  # type: ignore[arg-type]
        finally:
            bnb_nf4.install()

    return without_ours


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def at_the_limits(kind: str) -> Tensor:
    """Every limit between two levels, and the numbers next to it, times scales at which products are rounded."""
    levels = get_4bit_type(kind, device="cpu").sort().values
    limits = (levels[1:] + levels[:-1]) / 2
    near = [limits]
    for side in (-2.0, 2.0):
        near += [torch.nextafter(near[-1] if len(near) > 1 else limits, torch.tensor(side)) for _ in range(2)]
    row = torch.cat([*near, -limits])
    rows = [torch.cat((torch.ones(1), row.repeat(2)[:63])), torch.cat((-torch.ones(1), row[-63:]))]
    scales = torch.logspace(-30, 30, 61).view(-1, 1, 1) * torch.tensor([1, 1 / 3, 0.7]).view(-1, 1)
    return (torch.stack(rows) * scales.reshape(-1, 1, 1)).reshape(-1, 64)


SPECIAL = torch.tensor([0.0, -0.0, 1e-45, -1e-45, 1e-39, 1.2e-38, 3e38, -3e38])
MADE: dict[str, Callable[[], Tensor]] = {
    "random": lambda: random(130, 256),
    "several pieces and a rest": lambda: random(5, 64 * 77 + 10),
    "odd": lambda: random(3, 43),
    "less than a block": lambda: random(7),
    "one": lambda: random(1),
    "empty": lambda: random(0, 64),
    "zeros": lambda: torch.zeros(3, 64),
    "negative zeros": lambda: -torch.zeros(2, 64),
    "powers of two": lambda: 2.0 ** -torch.arange(64.0).repeat(4),
    "special": lambda: SPECIAL.repeat(40).view(5, 64),
    "each special alone": lambda: SPECIAL.repeat_interleave(64),
    "one outlier": lambda: torch.cat((random(63) * 1e-6, torch.tensor([1e4]))),
    "a grid": lambda: torch.linspace(-1, 1, 2**15),
    "nf4 limits": lambda: at_the_limits("nf4"),
    "fp4 limits": lambda: at_the_limits("fp4"),
    "not contiguous": lambda: random(128, 96).T,
    "not finite": lambda: torch.cat((random(61), torch.tensor([math.inf, -math.inf, math.nan]), random(128))),
    "a rest that is not finite": lambda: torch.cat((random(64), torch.tensor([math.inf, math.nan, 1.0]))),
}


@pytest.mark.usefixtures("small_pieces", "way")
@pytest.mark.parametrize("way", ["torch", "compiled"], indirect=True)
@pytest.mark.parametrize("made", MADE)
@pytest.mark.parametrize("dtype", [FP32, FP16, BF16], ids=str)
def test_the_bits_are_theirs(made: str, dtype: torch.dtype, theirs: Callable[..., tuple[Tensor, QuantState]]) -> None:
    weights = MADE[made]().to(dtype)
    for options in (
        {"quant_type": "nf4"},
        {"quant_type": "nf4", "blocksize": 4096},
        {"quant_type": "nf4", "compress_statistics": True},
        {"quant_type": "fp4", "blocksize": 128},
        {"quant_type": "fp4"},
    ):
        if options.get("compress_statistics") and not weights.numel():
            continue  # the mean of no scales
        (packed, state), (expected, wanted) = quantize_4bit(weights, **options), theirs(weights, **options)
        assert torch.equal(packed, expected), options
        assert packed.shape == expected.shape
        assert (state.shape, state.dtype, state.nested) == (wanted.shape, wanted.dtype, wanted.nested)
        assert_same_bits(state.absmax, wanted.absmax)
        if wanted.nested:
            assert_same_bits(state.state2.absmax, wanted.state2.absmax)
            assert_same_bits(state.offset, wanted.offset)


def assert_same_bits(ours: Tensor, wanted: Tensor) -> None:
    assert (ours.dtype, ours.shape) == (wanted.dtype, wanted.shape)
    torch.testing.assert_close(ours, wanted, rtol=0, atol=0, equal_nan=True)


def test_other_storage_is_theirs(theirs: Callable[..., tuple[Tensor, QuantState]]) -> None:
    """As FSDP has packed weights: under the name of another number format."""
    for storage in (FP16, FP32):
        (packed, _), (expected, _) = (
            quantize(random(32, 64), quant_type="nf4", quant_storage=storage) for quantize in (quantize_4bit, theirs)
        )
        assert packed.dtype == storage
        assert torch.equal(packed.view(torch.uint8), expected.view(torch.uint8))


def test_it_works_in_every_mode() -> None:
    """Threads have modes of their own."""
    expected = bnb_nf4.quantize(random(64, 64), 64, "nf4", torch.uint8)
    with torch.inference_mode():
        found = bnb_nf4.quantize(random(64, 64), 64, "nf4", torch.uint8)
    with_gradient = bnb_nf4.quantize(random(64, 64).requires_grad_(), 64, "nf4", torch.uint8)
    for results in (found, with_gradient):
        assert all(map(torch.equal, results, expected))


def test_loading_quantizes_this_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """bitsandbytes' own way takes many times as long."""
    pieces, limits_of = [], bnb_nf4._limits

    def count(kind: str) -> Any:
        pieces.append(kind)
        return limits_of(kind)

    monkeypatch.setattr(bnb_nf4, "_limits", count)
    load_model(GOLDENS / "minigpt_v2" / "config.yaml", device="cpu", quantization="4bit", report=None)
    assert len(pieces) == 7  # q, k, v, o, gate, up, down of the middle one of three layers
