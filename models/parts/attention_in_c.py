"""Attention in C for transformers' modules with many queries, such as vision towers, on a CPU."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from models.native.many_queries import many_queries

ATTENTION_IN_C = "attention_in_c"
"""Name of the implementation of attention, for `set_attn_implementation`."""


def attend_in_c(module: nn.Module) -> None:
    """Let what is inside of a module attend by compiled code, where there is any; what it does not take stays torch's.

    The module can only be used for inference on a CPU afterwards.
    """
    if many_queries() is None:
        return
    for inner in module.modules():
        if isinstance(inner, PreTrainedModel) and inner.config._attn_implementation == "sdpa":
            inner.set_attn_implementation(ATTENTION_IN_C)


def _forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """transformers' interface: heads [B, H, Q, D] to [B, Q, H, D]."""
    native = many_queries()
    hides_later = attention_mask is None and (getattr(module, "is_causal", True) if is_causal is None else is_causal)
    if native is None or dropout or hides_later or not native.takes(query, key, value, attention_mask):
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, is_causal=is_causal, **options
        )
    scale = query.shape[3] ** -0.5 if scaling is None else scaling
    return native.attend(query, key, value, attention_mask, scale).transpose(1, 2), None


AttentionInterface.register(ATTENTION_IN_C, _forward)
AttentionMaskInterface.register(ATTENTION_IN_C, sdpa_mask)
