"""The library's paged KV cache, written and read with fewer operations per layer and token."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise, starmap
from typing import Any

import torch
from torch import Tensor
from transformers.generation.continuous_batching.cache import PagedAttentionCache
from transformers.generation.continuous_batching.cache_allocators.full_attention import FullAttentionCacheAllocator
from transformers.generation.continuous_batching.utils import attn_mask_is_needed

from engine.batching.cpu_attention import Bounds, quick
from models.errors import ConfigError


def plain_pages(cache: PagedAttentionCache) -> FullAttentionCacheAllocator | None:
    """The only allocator of a cache with full attention in all layers and without flash kernels; None for others."""
    allocators = list(cache.cache_allocators.values())
    # The library's class for sliding windows, which overwrites old tokens, is derived from the plain one.
    if len(allocators) != 1 or type(allocators[0]) is not FullAttentionCacheAllocator or cache.max_blocks_per_request:
        return None
    return allocators[0] if attn_mask_is_needed(cache.config) else None


def place_pages(cache: PagedAttentionCache, devices: Sequence[torch.device]) -> None:
    """Give each layer pages of its own on its device, in place of parts of one tensor on the first.

    The library's pages of all layers lie one after the other; here the rows of a layer's tokens follow each other, and
    the library's own indices are made to say so. Raises ConfigError for what `plain_pages` refuses.
    """
    allocator = plain_pages(cache)
    if allocator is None:
        raise ConfigError("Sliding windows and flash-attention kernels work on one GPU only; name one with --device.")
    keys, _ = allocator._kv_token_views[allocator.layer_indices[0]]
    page = allocator.tokens_per_page
    rows = len(keys) // allocator.block_physical_stride * page
    shape = (rows, allocator.num_key_value_heads, allocator.head_dim)
    for layer in allocator.layer_indices:
        keys, values = (torch.zeros(shape, dtype=keys.dtype, device=devices[layer]) for _ in range(2))
        allocator._kv_token_views[layer] = keys, values
    allocator.write_trash_index = page * allocator.blocks_per_sector
    allocator.block_physical_stride = page


def token_rows(allocator: FullAttentionCacheAllocator) -> dict[int, tuple[Tensor, Tensor]]:
    """By layer, views of all keys and of all values with a row per token, [rows, K * D] for K heads of width D.

    Rows have one dimension, as torch gathers rows with two at half the speed.
    """
    return {layer: (keys.flatten(1), values.flatten(1)) for layer, (keys, values) in allocator._kv_token_views.items()}


def fast_update(cache: PagedAttentionCache) -> Callable[..., tuple[Tensor, Tensor]] | None:
    """A replacement for `cache.update`, which runs in every layer of every step; None for what `plain_pages` refuses.

    The library's own has a guard for torch.compile, which is not used here, and arguments of flash attention.
    """
    allocator = plain_pages(cache)
    if allocator is None:
        return None
    rows, head = token_rows(allocator), (allocator.num_key_value_heads, allocator.head_dim)
    bounds_of = _bounds_by_step()

    def update(
        key_states: Tensor, value_states: Tensor, layer_idx: int, kwargs: dict[str, Any]
    ) -> tuple[Tensor, Tensor]:
        """Write the keys and values [1, K, Q, D] of new tokens; returns those of all tokens to read, [1, K, L, D]."""
        keys, values = rows[layer_idx]
        write, read = kwargs["write_index"][0], kwargs["read_index"][0]
        keys.index_copy_(0, write, key_states[0].transpose(0, 1).flatten(1))
        values.index_copy_(0, write, value_states[0].transpose(0, 1).flatten(1))
        all_keys, all_values = key_states, value_states
        if read.numel():
            found = (side.index_select(0, read).unflatten(1, head).transpose(0, 1) for side in (keys, values))
            all_keys, all_values = (side.unsqueeze(0) for side in found)
        return quick(all_keys, bounds_of(kwargs), num_queries=key_states.shape[2]), all_values

    return update


def _bounds_by_step() -> Callable[[dict[str, Any]], Bounds]:
    """A function from the arguments of a step's attention, the same in all layers, to the tokens of each request.

    It returns () off the CPU, where they are not used: to read them, each step would wait for the device, and a CUDA
    graph could not be captured.
    """
    seen: Tensor | None = None
    bounds: Bounds = ()

    def bounds_of(kwargs: dict[str, Any]) -> Bounds:
        nonlocal seen, bounds
        ends = kwargs["cu_seq_lens_q"]
        if ends.device.type != "cpu":
            return ()
        if ends is not seen:
            key_ends = kwargs["cu_seq_lens_k"]
            (key_ends,) = key_ends.values() if isinstance(key_ends, dict) else (key_ends,)
            slices = (starmap(slice, pairwise(each.tolist())) for each in (ends, key_ends))
            seen, bounds = ends, tuple(zip(*slices, strict=True))
        return bounds

    return bounds_of
