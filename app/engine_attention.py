"""Attention in bfloat16 on a CPU, where torch's kernel is slow for few queries over many keys.

torch 2.13 takes 4.1 ms for one token over 1500 (12 heads of 64 numbers) and 4.7 ms for 40 tokens; two products with a
softmax between them take 0.9 and 3.5. The scores are fp32 as in torch's kernel, so the results are as exact.

B rows, H heads, K key and value heads, Q queries, L keys, D head width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

_MOST_SCORES = 2**21  # these fill 8 MiB; with more, torch's kernel is faster, which works on small parts of them


class QuickKeys(Tensor):
    """Keys [B, K, L, D] for which `scaled_dot_product_attention` is `attend`; in all else a tensor like any other."""

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is scaled_dot_product_attention:
            return attend(*args, **(kwargs or {}))
        return super().__torch_function__(func, types, args, kwargs)


def quick(keys: Tensor) -> Tensor:
    """The same keys; in bfloat16 on a CPU as QuickKeys."""
    is_slow = keys.dtype == torch.bfloat16 and keys.device.type == "cpu"
    return keys.as_subclass(QuickKeys) if is_slow else keys


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
