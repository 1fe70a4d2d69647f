"""Attention as two matrix products equals torch's, is as exact, and is what the engine uses in bfloat16 on a CPU."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from benchmarks import random_models
from engine.batching import cpu_attention
from engine.batching.cpu_attention import QuickKeys, quick
from engine.batching.paged_cache import _bounds_by_step
from engine.chat_engine import ChatEngine
from engine.generate import generate
from tests.engine.helpers import together
from tests.tiny_model import GREEDY, ask

BF16 = torch.bfloat16


def inputs(heads: int, key_heads: int, queries: int, keys: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Query, key, value in bfloat16, keys and values laid out as the engine reads them, and a causal mask."""
    generator = torch.Generator().manual_seed(keys)
    query = torch.randn(1, heads, queries, 16, generator=generator).to(BF16)
    key, value = (torch.randn(1, keys, key_heads, 16, generator=generator).to(BF16).transpose(1, 2) for _ in range(2))
    hidden = torch.ones(queries, keys, dtype=torch.bool).triu(keys - queries + 1)
    return query, key, value, torch.zeros(1, 1, queries, keys).masked_fill(hidden, -torch.inf).to(BF16)


@pytest.fixture
def without_c(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_attention, "many_queries", lambda: None)


@pytest.mark.usefixtures("without_c")
@pytest.mark.parametrize(
    "most", [cpu_attention._MOST_SCORES, 17 * 4 * 300, 0], ids=["by hand", "17 queries at a time", "by torch"]
)
@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (1, 90), (7, 90), (40, 300)])
@pytest.mark.parametrize("scale", [None, 0.5])
def test_it_is_as_exact_as_torch(
    queries: int, keys: int, scale: float | None, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu_attention, "_MOST_SCORES", most)
    query, key, value, mask = inputs(4, 4, queries, keys)
    exact = functional.scaled_dot_product_attention(
        query.double(), key.double(), value.double(), mask.double(), scale=scale
    )
    theirs = functional.scaled_dot_product_attention(query, key, value, mask, scale=scale)
    ours = functional.scaled_dot_product_attention(query, quick(key), value, attn_mask=mask, scale=scale)
    assert type(ours) is Tensor
    assert ours.dtype == BF16
    assert (ours - exact).norm() <= 1.5 * (theirs - exact).norm() + 1e-6


@pytest.mark.parametrize(("most", "is_torchs"), [(4 * 7 * 90, False), (4 * 7 * 90 - 1, True)])
def test_more_scores_than_that_are_left_to_torch(most: int, is_torchs: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_attention, "_MOST_SCORES", most)
    calls: list[int] = []
    torchs = functional.scaled_dot_product_attention

    def counted(*args: Any, **kwargs: Any) -> Tensor:
        calls.append(1)
        return torchs(*args, **kwargs)

    monkeypatch.setattr(cpu_attention, "scaled_dot_product_attention", counted)
    cpu_attention.attend(*inputs(4, 4, 7, 90))
    assert bool(calls) == is_torchs


@pytest.mark.usefixtures("without_c")
def test_of_some_queries_at_a_time_later_keys_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_attention, "_MOST_SCORES", 20 * 4 * 90)
    widths: list[tuple[int, int]] = []
    products = cpu_attention._products

    def counted(scaled: Tensor, columns: Tensor, *others: Any) -> Tensor:
        widths.append((scaled.shape[2], columns.shape[3]))
        return products(scaled, columns, *others)

    monkeypatch.setattr(cpu_attention, "_products", counted)
    query, key, value, mask = inputs(4, 4, 50, 90)
    cpu_attention.attend(query, key, value, mask)
    assert widths == [(20, 60), (20, 80), (10, 90)]
    cpu_attention.attend(query, key, value)
    assert widths[3:] == [(20, 90), (20, 90), (10, 90)]


@pytest.mark.parametrize("queries", [1, 6])
def test_heads_that_share_keys(queries: int) -> None:
    query, key, value, _ = inputs(8, 2, queries, 50)
    ours = functional.scaled_dot_product_attention(query, quick(key), value, enable_gqa=True)
    exact = functional.scaled_dot_product_attention(query.float(), key.float(), value.float(), enable_gqa=True)
    torch.testing.assert_close(ours.float(), exact, rtol=0.02, atol=0.02)


@pytest.mark.usefixtures("without_c")
@pytest.mark.parametrize("kind", ["causal", "true and false", "a mask for shared keys"])
def test_what_it_does_not_do_by_hand_is_left_to_torch(kind: str) -> None:
    query, key, value, mask = inputs(8, 2 if "shared" in kind else 8, 30, 30)
    options: dict[str, Any] = {"is_causal": True} if kind == "causal" else {"attn_mask": mask == 0}
    if "shared" in kind:
        options = {"attn_mask": mask, "enable_gqa": True}
    ours = functional.scaled_dot_product_attention(query, quick(key), value, **options)
    torch.testing.assert_close(ours, functional.scaled_dot_product_attention(query, key, value, **options))


def test_other_number_formats_and_devices_keep_theirs() -> None:
    assert type(quick(torch.zeros(1, 2, 3, 4, dtype=BF16))) is QuickKeys
    assert type(quick(torch.zeros(1, 2, 3, 4))) is Tensor
    assert type(quick(torch.zeros(1, 2, 3, 4, dtype=BF16, device="meta"))) is Tensor


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("backbone", random_models.BACKBONES)
def test_the_engine_uses_it_for_every_backbone(backbone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_models.random_model(backbone, random_models.SMALL, dtype=BF16, context_tokens=256)
    queries: list[int] = []
    attend = cpu_attention.attend

    def counted(query: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        queries.append(query.shape[2])
        return attend(query, *args, **kwargs)

    monkeypatch.setattr(cpu_attention, "attend", counted)
    monkeypatch.setattr("engine.batching.manager.native_step", lambda _: None)
    with ChatEngine(model, max_concurrent=2, page_size=8, update_interval=0) as engine:
        answer = list(engine.stream(ask("what is it", random_models.picture(1)), GREEDY))[-1]
    layers = model.language_model.config.num_hidden_layers
    assert len(queries) == layers * answer.num_new_tokens  # once per layer: for the prompt, then for a token each
    assert queries[0] == answer.num_prompt_tokens


@pytest.mark.parametrize("dtype", [torch.float32, BF16])
def test_requests_in_one_row_attend_to_their_own_keys(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """As under the mask that hides the others, however many new and old tokens each has."""
    monkeypatch.setattr(cpu_attention, "_MANY_PRODUCTS", 0)
    new, all_own = (1, 5, 2, 1, 7), (9, 5, 11, 1, 12)
    generator = torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn(1, 4, count, 16, generator=generator).to(dtype) for count in (sum(new), sum(all_own), sum(all_own))
    )
    visible = torch.block_diag(
        *(torch.ones(count, own).tril(own - count) for count, own in zip(new, all_own, strict=True))
    )
    mask = torch.zeros(1, 1, *visible.shape).masked_fill(visible == 0, -torch.inf).to(dtype)
    ends = [0, *itertools.accumulate(new)], [0, *itertools.accumulate(all_own)]
    bounds = tuple(zip(*(itertools.starmap(slice, itertools.pairwise(side)) for side in ends), strict=True))
    ours = functional.scaled_dot_product_attention(
        query, quick(key, bounds, num_queries=sum(new)), value, attn_mask=mask
    )
    exact = functional.scaled_dot_product_attention(query.float(), key.float(), value.float(), attn_mask=mask.float())
    assert type(ours) is Tensor
    tolerance = 0.02 if dtype == BF16 else 1e-6  # bfloat16 has eight bits
    torch.testing.assert_close(ours.float(), exact, rtol=tolerance, atol=tolerance)


def test_bounds_go_along_with_repeated_keys() -> None:
    bounds = ((slice(0, 2), slice(0, 30)), (slice(2, 3), slice(30, 50)))
    keys = quick(torch.rand(1, 2, 50, 16, dtype=BF16), bounds, num_queries=10**6)
    repeated = keys[:, :, None].expand(1, 2, 3, 50, 16).reshape(1, 6, 50, 16)
    assert isinstance(repeated, QuickKeys)
    assert repeated.bounds == bounds
    assert quick(torch.rand(1, 2, 50, 16, dtype=BF16), bounds).__dict__ == {}  # too few to be worth it


def test_bounds_are_read_on_a_cpu_alone() -> None:
    """Elsewhere reading them would make every step wait, and break the capture of a CUDA graph."""
    ends = torch.tensor([0, 2, 3]), torch.tensor([0, 30, 50])
    bounds_of = _bounds_by_step()
    assert bounds_of({"cu_seq_lens_q": ends[0], "cu_seq_lens_k": {"full_attention": ends[1]}}) == (
        (slice(0, 2), slice(0, 30)),
        (slice(2, 3), slice(30, 50)),
    )
    # A tensor without values: to read it is an error.
    assert bounds_of({"cu_seq_lens_q": ends[0].to("meta"), "cu_seq_lens_k": ends[1].to("meta")}) == ()


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("backbone", random_models.BACKBONES)
def test_prompts_read_together_on_every_backbone(backbone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_attention, "_MANY_PRODUCTS", 0)
    monkeypatch.setattr("engine.batching.manager._GATHER_SECONDS", 0.2)
    model = random_models.random_model(backbone, random_models.SMALL, context_tokens=256)
    chats = [ask("what is it " * length, random_models.picture(length)) for length in (1, 5, 3)]
    expected = [generate(model, [chat], GREEDY)[0].text for chat in chats]
    rows: list[int] = []
    attend_by_request = cpu_attention.attend_by_request

    def counted(query: Tensor, key: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        assert isinstance(key, QuickKeys)
        rows.append(len(key.bounds))
        return attend_by_request(query, key, *args, **kwargs)

    monkeypatch.setattr(cpu_attention, "attend_by_request", counted)
    monkeypatch.setattr("engine.batching.manager.native_step", lambda _: None)
    with ChatEngine(model, max_concurrent=3, page_size=8, update_interval=0) as engine:
        assert [answer.text for answer in together(engine, chats, [GREEDY] * 3)] == expected
    assert max(rows) > 1
