"""Attention on a CPU: of each request to its own tokens alone, and in bfloat16 by hand where torch's kernel is slow.

In a step of the batching library all requests are one row, each under a mask that hides the others. With eight requests
seven of eight products are for nothing; on a GPU they cost little, on a CPU a good part of the step.

For few queries over many keys in bfloat16, torch 2.13 takes 4.1 ms for one token over 1500 (12 heads of 64 numbers) and
4.7 ms for 40 tokens; two products with a softmax between them take 0.9 and 3.5. The scores are fp32 as in torch's
kernel, so the results are as exact.

B rows, H heads, K key and value heads, Q queries, L keys, D head width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

_MOST_SCORES = 2**21  # these fill 8 MiB; with more, torch's kernel is faster, which works on small parts of them
_MANY_PRODUCTS = 2**21  # from which on it is worth the calls to take requests one by one

Bounds = tuple[tuple[slice, slice], ...]
"""Which queries and which keys of a row belong to each request."""


class QuickKeys(Tensor):
    """Keys [B, K, L, D] for which `scaled_dot_product_attention` is `attend`; in all else a tensor like any other.

    With `bounds`, B is 1 and the row is that of several requests.
    """

    bounds: Bounds = ()

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is scaled_dot_product_attention:
            return attend_apart(*args, **(kwargs or {})) if args[1].bounds else attend(*args, **(kwargs or {}))
        result = super().__torch_function__(func, types, args, kwargs)
        if isinstance(result, QuickKeys) and args and isinstance(args[0], QuickKeys):
            result.bounds = args[0].bounds  # of keys that were repeated for the heads that share them
        return result


def quick(keys: Tensor, bounds: Bounds = (), *, num_queries: int = 1) -> Tensor:
    """The same keys; on a CPU as QuickKeys where that is quicker. `bounds`: see there."""
    if keys.device.type != "cpu":
        return keys
    has_many = len(bounds) > 1 and keys.numel() * num_queries >= _MANY_PRODUCTS
    if not has_many and keys.dtype != torch.bfloat16:
        return keys
    quick_keys = keys.as_subclass(QuickKeys)
    if has_many:
        quick_keys.bounds = bounds
    return quick_keys


def attend_apart(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor, **options: Any) -> Tensor:
    """Attention of several requests in one row, [1, H, Q, D] -> [1, H, Q, D]: of each to its own keys, one by one.

    `attn_mask` [1, 1, Q, L] hides from each request the keys of the others, and of its own those that come later.
    """
    assert isinstance(key, QuickKeys)
    bounds, key = key.bounds, key.as_subclass(Tensor)
    compute = attend if key.dtype == torch.bfloat16 else scaled_dot_product_attention
    result = torch.empty_like(query)
    for queries, keys in bounds:
        is_one = queries.stop - queries.start == 1  # which sees all of its own
        own_mask = None if is_one else attn_mask[..., queries, keys]
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
    """`scaled_dot_product_attention`, [B, H, Q, D] -> [B, H, Q, D]: by hand if the scores are few, else by torch."""
    key = key.as_subclass(Tensor)
    is_plain = attn_mask is None or (attn_mask.is_floating_point() and not enable_gqa)
    if not is_plain or is_causal or dropout_p or query.shape[:3].numel() * key.shape[2] > _MOST_SCORES:
        key, value = key.contiguous(), value.contiguous()  # a copy costs less than torch's kernel gains by it
        return scaled_dot_product_attention(
            query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
        )
    # With K < H, the heads that share keys become queries of one head.
    queries = query.float().reshape(len(key), key.shape[1], -1, key.shape[3])
    scores = queries.mul(key.shape[3] ** -0.5 if scale is None else scale) @ key.float().mT
    if attn_mask is not None:
        scores += attn_mask
    return (scores.softmax(-1).to(value.dtype) @ value).view(query.shape)
