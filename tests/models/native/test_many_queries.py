"""Attention in C is as exact as torch's, for each query alone, whatever lies where."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from models.native.many_queries import FEWEST_QUERIES, ManyQueries, many_queries

pytestmark = pytest.mark.skipif(many_queries() is None, reason="no compiled code for bfloat16 on this machine")
BF16 = torch.bfloat16
SIZES = [  # heads, those of keys, queries, keys, width
    (4, 4, 16, 16, 64), (4, 2, 37, 45, 34), (6, 1, 25, 70, 88), (2, 2, 50, 1, 16), (3, 3, 17, 33, 160),
]  # fmt: skip


@pytest.fixture
def native() -> ManyQueries:
    found = many_queries()
    assert found is not None
    return found


def inputs(heads: int, key_heads: int, queries: int, keys: int, width: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Two rows; queries [B, Q, H, D] turned round, as layers give them, and a causal mask."""
    numbers = torch.Generator().manual_seed(queries)
    query = torch.randn(2, queries, heads, width, generator=numbers).to(BF16).transpose(1, 2)
    key, value = (torch.randn(2, key_heads, keys, width, generator=numbers).to(BF16) for _ in range(2))
    hidden = torch.arange(keys) > torch.arange(queries)[:, None] + max(0, keys - queries)
    return query, key, value, torch.zeros(1, 1, queries, keys).masked_fill(hidden, torch.finfo(BF16).min).to(BF16)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("has_mask", [False, True])
def test_it_is_as_exact_as_torch(size: tuple[int, ...], has_mask: bool, native: ManyQueries) -> None:
    query, key, value, mask = inputs(*size)
    given = mask if has_mask else None
    assert native.takes(query, key, value, given)
    ours = native.attend(query, key, value, given, 0.3)
    theirs, exact = (
        scaled_dot_product_attention(
            query.to(dtype), key.to(dtype), value.to(dtype), None if given is None else given.to(dtype), scale=0.3,
            enable_gqa=True,
        )
        for dtype in (BF16, torch.float64)
    )  # fmt: skip
    assert ours.dtype == BF16
    assert ours.shape == theirs.shape
    assert (ours - exact).norm() <= 1.5 * (theirs - exact).norm() + 1e-6


def test_a_query_is_the_same_bits_in_every_company(native: ManyQueries) -> None:
    query, key, value, mask = inputs(4, 2, 90, 130, 64)
    together, threads = native.attend(query, key, value, mask, 0.125), torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        for first, last in ((0, 16), (5, 30), (31, 90)):
            some = native.attend(query[:, :, first:last], key, value, mask[:, :, first:last], 0.125)
            assert torch.equal(some, together[:, :, first:last])
    finally:
        torch.set_num_threads(threads)


def test_scores_that_are_huge_hidden_or_no_numbers(native: ManyQueries) -> None:
    query, key, value, mask = inputs(2, 2, 20, 40, 32)
    query[0, 0, 3] *= 1e4
    query[0, 1, 4, 5] = float("nan")
    mask[..., 7, :] = torch.finfo(BF16).min
    found = native.attend(query, key, value, mask, 1.0)
    wrong = torch.zeros(found.shape[:3], dtype=torch.bool)
    wrong[0, 1, 4] = True
    assert torch.equal(found.isfinite().all(-1), ~wrong)
    expected = scaled_dot_product_attention(query.float(), key.float(), value.float(), mask.float(), scale=1.0)
    torch.testing.assert_close(found[~wrong].float(), expected[~wrong], rtol=0.02, atol=0.02)


def test_what_it_does_not_take(native: ManyQueries) -> None:
    query, key, value, mask = inputs(4, 4, 20, 30, 32)
    assert native.takes(query, key, value, mask)
    assert not native.takes(query[:, :, : FEWEST_QUERIES - 1], key, value, None)
    assert not native.takes(query.float(), key.float(), value.float(), None)
    assert not native.takes(query, key, value, mask == 0)
    assert not native.takes(query, key.mT.contiguous().mT, value, None)
    assert not native.takes(query, key[:, :3], value[:, :3], None)
    assert not native.takes(query, key, value, mask.expand(2, 1, -1, -1))
