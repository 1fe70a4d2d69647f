"""Attention over rows of unequal length that run through the decoder as one sequence, with little padding.

N tokens: those of B scenes, P each (prefix and image), then those of the rows. H heads of D numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

PACKED_ROWS = "packed_rows"
"""Name of the implementation of attention, for `set_attn_implementation`; the decoder then wants `packing=`."""


@dataclass(frozen=True, kw_only=True)
class RowBlock:
    """R rows of equal length L, one after the other."""

    length: int
    has_image: bool
    images: Tensor  # [R] the scene that each row is about, -1 for text alone


@dataclass(frozen=True, kw_only=True)
class Packing:
    """Which tokens of one long sequence belong to the same row, where many rows are packed into it."""

    num_images: int
    image_length: int
    blocks: Sequence[RowBlock]

    def positions(self, device: torch.device) -> Tensor:
        """[N]: of every token in its row, which begins with the image tokens of its scene."""
        image = torch.arange(self.image_length, device=device)
        parts = [image.repeat(self.num_images)]
        for block in self.blocks:
            row = torch.arange(block.length, device=device) + self.image_length * block.has_image
            parts.append(row.repeat(len(block.images)))
        return torch.cat(parts)


def attend(q: Tensor, k: Tensor, v: Tensor, *, num_before: int) -> Tensor:
    """Causal attention of q [R, H, L, D] to k and v [R, H, num_before + L, D]."""
    length = q.shape[2]
    mask = torch.full((length, num_before + length), -torch.inf, dtype=q.dtype, device=q.device).triu(num_before + 1)
    scores = torch.baddbmm(mask, q.flatten(0, 1), k.flatten(0, 1).mT)
    return torch.bmm(scores.softmax(-1), v.flatten(0, 1)).view_as(q)


def attend_packed(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    packing: Packing,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Every row attends to its scene and to itself: [1, H, N, D] each -> [1, N, H, D]. See `AttentionInterface`."""
    del module, attention_mask, kwargs
    query = query * scaling
    num = packing.num_images * packing.image_length
    lengths = [num] + [len(block.images) * block.length for block in packing.blocks]
    parts = zip(*(tensor[0].transpose(0, 1).split(lengths) for tensor in (query, key, value)), strict=True)
    q, k, v = (part.unflatten(0, (packing.num_images, -1)).transpose(1, 2).contiguous() for part in next(parts))
    outputs = [attend(q, k, v, num_before=0).transpose(1, 2).flatten(0, 1)]
    for block, part in zip(packing.blocks, parts, strict=True):
        row_q, row_k, row_v = (p.unflatten(0, (-1, block.length)).transpose(1, 2) for p in part)
        before = 0
        if block.has_image:
            row_k = torch.cat((k[block.images], row_k), dim=2)
            row_v = torch.cat((v[block.images], row_v), dim=2)
            before = packing.image_length
        outputs.append(attend(row_q, row_k, row_v, num_before=before).transpose(1, 2).flatten(0, 1))
    return torch.cat(outputs)[None], None


AttentionInterface.register(PACKED_ROWS, attend_packed)
