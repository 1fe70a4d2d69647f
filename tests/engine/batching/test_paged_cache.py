"""Keys and values in pages: what is written where, what is read, and which tokens are whose."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.generation.continuous_batching.cache import PagedAttentionCache

from engine.batching.cpu_attention import QuickKeys
from engine.batching.paged_cache import _bounds_by_step, fast_update, place_pages, plain_pages, token_rows
from models.errors import ConfigError
from tests.engine.batching.helpers import manager_of
from tests.engine.helpers import PAGE, start
from tests.tiny_model import tiny_model

CPU = torch.device("cpu")
HEADS, WIDTH = 2, 8  # of the tiny model


@pytest.fixture(scope="module")
def cache() -> Iterator[PagedAttentionCache]:
    with start(tiny_model()) as engine:
        processor = manager_of(engine).batch_processor
        assert processor is not None
        yield processor.cache


def arguments(write: list[int], read: list[int], **more: Any) -> dict[str, Any]:
    """Those of attention that a cache reads, for one request."""
    ends = {"cu_seq_lens_q": torch.tensor([0, len(write)]), "cu_seq_lens_k": torch.tensor([0, len(read)])}
    return {"write_index": [torch.tensor(write)], "read_index": [torch.tensor(read)], **ends, **more}


def states(count: int, seed: int) -> Tensor:
    return torch.rand(1, HEADS, count, WIDTH, generator=torch.Generator().manual_seed(seed))


def test_a_step_writes_and_reads_what_the_librarys_own_does(cache: PagedAttentionCache) -> None:
    """In each layer, for tokens in any rows."""
    ours, memory = fast_update(cache), cache.cache_tensor
    assert ours is not None
    write, read = [9, 30, 2], [5, 9, 30, 2, 17]
    memory.view(torch.float32).copy_(torch.rand(memory.numel() // 4, generator=torch.Generator().manual_seed(0)))
    before = memory.clone()
    for layer in range(2):
        keys, values = states(3, 10 + layer), states(3, 20 + layer)
        memory.copy_(before)
        found = ours(keys, values, layer, arguments(write, read))
        written = memory.clone()
        kind = cache.layer_to_allocator[layer].layer_type
        memory.copy_(before)
        by_kind = {"cu_seq_lens_k": {kind: torch.tensor([0, 5])}, "max_length_k": {kind: 5}}
        wanted = PagedAttentionCache.update(cache, keys, values, layer, arguments(write, read) | by_kind)
        for side, other in zip(found, wanted, strict=True):
            assert side.shape == (1, HEADS, 5, WIDTH)
            assert torch.equal(torch.Tensor(side), other)
        assert torch.equal(written, memory)
        assert not torch.equal(written, before)


def token_rows_of(cache: PagedAttentionCache) -> dict[int, tuple[Tensor, Tensor]]:
    allocator = plain_pages(cache)
    assert allocator is not None
    return token_rows(allocator)


def test_where_nothing_is_to_be_read_the_new_keys_and_values_are_all(cache: PagedAttentionCache) -> None:
    update = fast_update(cache)
    assert update is not None
    keys, values = states(2, 1), states(2, 2)
    all_keys, all_values = update(keys, values, 0, arguments([3, 4], []))
    assert torch.equal(torch.Tensor(all_keys), keys)
    assert all_values is values
    assert torch.equal(token_rows_of(cache)[0][1][4], values[0, :, 1].flatten())


def test_several_requests_of_a_step_are_attended_to_apart(
    cache: PagedAttentionCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three tokens of one request and one of another: each has its own part of the keys."""
    products = "engine.batching.cpu_attention._MANY_PRODUCTS"
    monkeypatch.setattr(products, 8 * HEADS * WIDTH * 4)
    update = fast_update(cache)
    assert update is not None
    ends = {"cu_seq_lens_q": torch.tensor([0, 3, 4]), "cu_seq_lens_k": {"any": torch.tensor([0, 3, 8])}}
    step = arguments([0, 1, 2, 40], [0, 1, 2, 36, 37, 38, 39, 40]) | ends
    keys, _ = update(states(4, 1), states(4, 2), 0, step)
    assert isinstance(keys, QuickKeys)
    assert keys.bounds == ((slice(0, 3), slice(0, 3)), (slice(3, 4), slice(3, 8)))
    monkeypatch.setattr(products, 8 * HEADS * WIDTH * 4 + 1)
    keys, _ = update(states(4, 1), states(4, 2), 0, step)
    assert not isinstance(keys, QuickKeys)  # few products: a mask does


def test_who_has_which_tokens_is_found_once_a_step() -> None:
    bounds_of, key_ends = _bounds_by_step(), torch.tensor([0, 2, 6])
    step = {"cu_seq_lens_q": torch.tensor([0, 1, 2]), "cu_seq_lens_k": key_ends}
    expected = ((slice(0, 1), slice(0, 2)), (slice(1, 2), slice(2, 6)))
    assert bounds_of(step) == expected
    key_ends += 1  # another layer of the same step does not look again
    assert bounds_of(step) == expected
    assert bounds_of(step | {"cu_seq_lens_q": torch.tensor([0, 1, 2])})[1][1] == slice(3, 7)
    on_gpu = {"cu_seq_lens_q": torch.tensor([0, 1], device="meta"), "cu_seq_lens_k": key_ends}
    assert bounds_of(on_gpu) == ()


def test_sliding_windows_flash_kernels_and_mixed_layers_keep_the_librarys_way(cache: PagedAttentionCache) -> None:
    allocator = plain_pages(cache)
    assert allocator is next(iter(cache.cache_allocators.values()))

    class Sliding(type(allocator)):  # type: ignore[misc]
        """As the library derives its own."""

    sliding = object.__new__(Sliding)
    flash = copy.copy(cache.config)
    flash._attn_implementation = "paged|flash_attention_2"
    usual = {"cache_allocators": {0: allocator}, "max_blocks_per_request": 0, "config": cache.config}
    assert plain_pages(SimpleNamespace(**usual)) is allocator  # type: ignore[arg-type]
    for odd in (
        {"cache_allocators": {0: allocator, 1: allocator}},
        {"cache_allocators": {0: sliding}},
        {"max_blocks_per_request": 4},
        {"config": flash},
    ):
        other: Any = SimpleNamespace(**usual | odd)
        assert plain_pages(other) is None
        assert fast_update(other) is None
        with pytest.raises(ConfigError, match="one GPU only"):
            place_pages(other, [CPU, CPU])


def test_pages_of_each_layer_on_its_own_device_hold_as_much(
    cache: PagedAttentionCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows of a layer follow each other: pages, and two sectors of the library's own for padding."""
    made: list[tuple[tuple[int, ...], torch.device]] = []
    zeros = torch.zeros

    def record(shape: tuple[int, ...], *, dtype: torch.dtype, device: torch.device) -> Tensor:
        made.append((shape, device))
        return zeros(shape, dtype=dtype)

    placed = copy.deepcopy(cache)
    allocator = plain_pages(placed)
    assert allocator is not None
    monkeypatch.setattr(torch, "zeros", record)
    place_pages(placed, [CPU, torch.device("meta")])
    monkeypatch.undo()
    assert allocator.block_physical_stride == PAGE
    assert allocator.write_trash_index == PAGE * allocator.blocks_per_sector
    rows = (allocator.num_blocks + 2 * allocator.blocks_per_sector) * PAGE
    assert {len(side) for sides in allocator._kv_token_views.values() for side in sides} == {rows}
    assert made == [((rows, HEADS, WIDTH), torch.device(device)) for device in ("cpu", "cpu", "meta", "meta")]
