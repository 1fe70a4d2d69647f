"""The library's pages of keys and values, read and written in as few steps as a CPU needs."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise, starmap
from typing import Any

from torch import Tensor
from transformers.generation.continuous_batching.cache import PagedAttentionCache
from transformers.generation.continuous_batching.cache_allocators.full_attention import FullAttentionCacheAllocator
from transformers.generation.continuous_batching.utils import attn_mask_is_needed

from app.engine_attention import Bounds, quick


def plain_pages(cache: PagedAttentionCache) -> FullAttentionCacheAllocator | None:
    """The pages of a model whose layers all keep every token's keys and values, and are read without a flash kernel."""
    allocators = list(cache.cache_allocators.values())
    # The library's class for sliding windows, which overwrites old tokens, is derived from the plain one.
    if len(allocators) != 1 or type(allocators[0]) is not FullAttentionCacheAllocator or cache.max_blocks_per_request:
        return None
    return allocators[0] if attn_mask_is_needed(cache.config) else None


def token_rows(allocator: FullAttentionCacheAllocator) -> dict[int, tuple[Tensor, Tensor]]:
    """By layer, views of all keys and of all values with a row per token, [rows, K * D] for K heads of width D.

    One dimension per row, as torch gathers rows of two at half the speed.
    """
    return {layer: (keys.flatten(1), values.flatten(1)) for layer, (keys, values) in allocator._kv_token_views.items()}


def update_quickly(cache: PagedAttentionCache) -> None:
    """Let `cache.update` do its work in fewer steps: it runs once per layer and token.

    The library's goes through a guard for torch.compile, which nothing here uses, and through arguments of flash
    attention. Models with sliding windows and the flash kernels, which want those, keep the library's.
    """
    allocator = plain_pages(cache)
    if allocator is None:
        return
    rows, head = token_rows(allocator), (allocator.num_key_value_heads, allocator.head_dim)
    bounds_of = _bounds_by_step()

    def update(key_states: Tensor, value_states: Tensor, layer_idx: int, kwargs: dict[str, Any]) -> Any:
        """The keys and values [1, K, Q, D] of new tokens -> those of all tokens to read, [1, K, L, D]."""
        keys, values = rows[layer_idx]
        write, read = kwargs["write_index"][0], kwargs["read_index"][0]
        keys.index_copy_(0, write, key_states[0].transpose(0, 1).flatten(1))
        values.index_copy_(0, write, value_states[0].transpose(0, 1).flatten(1))
        all_keys, all_values = key_states, value_states
        if read.numel():
            found = (side.index_select(0, read).unflatten(1, head).transpose(0, 1) for side in (keys, values))
            all_keys, all_values = (side.unsqueeze(0) for side in found)
        return quick(all_keys, bounds_of(kwargs), num_queries=key_states.shape[2]), all_values

    setattr(cache, "update", update)  # noqa: B010 (the library has no hook for it)


def _bounds_by_step() -> Callable[[dict[str, Any]], Bounds]:
    """From the arguments of a step's attention, which are the same in all layers, the tokens of each request.

    None off the CPU, where nobody needs them: each step would wait for the device, and could not be captured.
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
