"""Attention on a CPU: request by request, and in bfloat16 without torch's kernel where that is slow.

In a step of continuous batching all requests are one row, and a mask hides them from each other. With eight requests,
seven of eight products are masked out; on a GPU they cost little, on a CPU a good part of the step.

Many queries in bfloat16 are computed in C where that is compiled (models/native/many_queries.c). Without it:
for queries over many keys in bfloat16, torch 2.13 takes 4.1 ms for one token over 1500 (12 heads of 64 numbers) and
4.7 ms for 40 tokens; two matrix products with a softmax between them take 0.9 and 3.5. The scores are fp32 as in
torch's kernel, so the results are as exact.

B rows, H heads, K key and value heads, Q queries, L keys, D head width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from models.native.many_queries import many_queries

_MOST_SCORES = 2**20  # 4 MiB at a time, which a core's caches hold
_FEWEST_QUERIES = 16  # at a time; with fewer, torch's kernel is faster
_MOST_QUERIES = 64  # at a time: the keys after the last one need not be multiplied
_MANY_PRODUCTS = 2**21  # with so many, requests are computed one by one: the calls cost less than masked-out products

Bounds = tuple[tuple[slice, slice], ...]
"""Which queries and which keys of a row belong to each request."""


class QuickKeys(Tensor):
    """Keys [B, K, L, D] for which `scaled_dot_product_attention` calls `attend`; in all else a plain tensor.

    With `bounds`, B is 1 and the row is that of several requests.
    """

    bounds: Bounds = ()

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is scaled_dot_product_attention:
            return attend_by_request(*args, **(kwargs or {})) if args[1].bounds else attend(*args, **(kwargs or {}))
        result = super().__torch_function__(func, types, args, kwargs)
        if isinstance(result, QuickKeys) and args and isinstance(args[0], QuickKeys):
            result.bounds = args[0].bounds  # of keys that were repeated for the heads that share them
        return result


def quick(keys: Tensor, bounds: Bounds = (), *, num_queries: int = 1) -> Tensor:
    """The same keys; on a CPU as QuickKeys where that is quicker. `bounds`: of each request, if there are several."""
    if keys.device.type != "cpu":
        return keys
    has_many = len(bounds) > 1 and keys.numel() * num_queries >= _MANY_PRODUCTS
    if not has_many and keys.dtype != torch.bfloat16:
        return keys
    quick_keys = keys.as_subclass(QuickKeys)
    if has_many:
        quick_keys.bounds = bounds
    return quick_keys


def attend_by_request(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor, **options: Any) -> Tensor:
    """Attention of several requests in one row, computed one by one, [1, H, Q, D] -> [1, H, Q, D].

    `attn_mask` [1, 1, Q, L] hides from each request the keys of the others, and is causal within its own.
    """
    assert isinstance(key, QuickKeys)
    bounds, key = key.bounds, key.as_subclass(Tensor)
    compute = attend if key.dtype == torch.bfloat16 else scaled_dot_product_attention
    result = torch.empty_like(query)
    for queries, keys in bounds:
        has_one_query = queries.stop - queries.start == 1  # the newest token, which attends to all of its own keys
        own_mask = None if has_one_query else attn_mask[..., queries, keys]
        result[:, :, queries] = compute(query[:, :, queries], key[:, :, keys], value[:, :, keys], own_mask, **options)
    return result


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """`scaled_dot_product_attention`, [B, H, Q, D] -> [B, H, Q, D]: as matrix products for some queries at a time."""
    key = key.as_subclass(Tensor)
    native = many_queries()
    if native is not None and not is_causal and not dropout_p and native.takes(query, key, value, attn_mask):
        return native.attend(query, key, value, attn_mask, key.shape[3] ** -0.5 if scale is None else scale)
    is_plain = attn_mask is None or (attn_mask.is_floating_point() and not enable_gqa)
    at_once = _MOST_SCORES // max(1, query.shape[:2].numel() * key.shape[2])
    if not is_plain or is_causal or dropout_p or at_once < min(_FEWEST_QUERIES, query.shape[2]):
        key, value = key.contiguous(), value.contiguous()  # a copy costs less than torch's kernel gains by it
        return scaled_dot_product_attention(
            query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
        )
    scaled = query.float().mul_(key.shape[3] ** -0.5 if scale is None else scale)
    columns = key.float().mT
    if query.shape[2] <= at_once:
        return _products(scaled, columns, value, attn_mask)
    result = torch.empty_like(query)
    step = min(at_once, _MOST_QUERIES)
    for start in range(0, query.shape[2], step):
        own, mask, end = slice(start, start + step), attn_mask, key.shape[2]
        if mask is not None:
            mask = mask[:, :, own]
            end = _last_seen(mask)
            mask = mask[..., :end]
        result[:, :, own] = _products(scaled[:, :, own], columns[..., :end], value[:, :, :end], mask)
    return result


def _products(scaled: Tensor, columns: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """Attention of queries [B, H, Q, D] in fp32 to keys [B, K, D, L] in fp32, as large as the queries."""
    # With K < H, the heads that share keys become queries of one head.
    scores = scaled.reshape(len(columns), columns.shape[1], -1, columns.shape[2]) @ columns
    if mask is not None:
        scores += mask
    return (scores.softmax(-1).to(value.dtype) @ value).view(scaled.shape)


def _last_seen(mask: Tensor) -> int:
    """The number of keys up to the last that a query sees, of a mask [B, 1, Q, L] of zeros and very small numbers."""
    seen = (mask.amax((0, 1, 2)) > torch.finfo(mask.dtype).min / 2).nonzero()
    return int(seen[-1]) + 1 if len(seen) else mask.shape[3]
