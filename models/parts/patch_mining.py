"""Patch info mining (Mini-Gemini, arXiv:2403.18814): each low-resolution patch looks at its own high-resolution window.

B pictures, n patches of a view, C CLIP width, A high-resolution channels, s window side, H language model width.
"""

from __future__ import annotations

from math import isqrt

import torch
from torch import Tensor, nn

from models.parts.dual_vision import DualFeatures, shrink


class PatchMiningConnector(nn.Module):
    """Mines high-resolution detail into the patches of every view, then projects: `DualFeatures` -> [B, N, H].

    Token order for HD: the whole picture first, then the crops in raster order, each in its own raster order.
    Source: MGM, `mgm_arch.py`, `unified_resampler` and `encode_images`.
    """

    def __init__(self, *, vision_width: int, aux_width: int, text_width: int) -> None:
        super().__init__()
        self.query = nn.Sequential(nn.LayerNorm(vision_width), nn.Linear(vision_width, vision_width))
        self.key = nn.Sequential(nn.LayerNorm(aux_width), nn.Linear(aux_width, vision_width))
        self.value = nn.Sequential(nn.LayerNorm(aux_width), nn.Linear(aux_width, vision_width))
        first, second = nn.Linear(vision_width, text_width), nn.Linear(text_width, text_width)
        self.projection = nn.Sequential(first, nn.GELU(), second)

    def mine(self, low: Tensor, high: Tensor) -> Tensor:
        """Patches [B, n, C] with a map [B, A, H, W] -> patches with what they found added, [B, n, C]."""
        windows = windows_of(high, round(low.shape[1] ** 0.5))
        query, key, value = self.query(low), self.key(windows), self.value(windows)
        # The original divides the keys, not the logits; in fp16 that is what keeps them finite.
        logits = torch.einsum("bnc,bnwc->bnw", query, key / query.shape[-1] ** 0.5)
        weights = logits.nan_to_num().softmax(dim=-1)
        return low + torch.einsum("bnw,bnwc->bnc", weights, value)

    def prepare(self, features: DualFeatures) -> Tensor:
        """The input of `projection`: [B, N, C]."""
        views = features.low.shape[1]
        if views == 1:
            return self.mine(features.low[:, 0], features.high)
        grid = isqrt(views)
        tiles = self._tiles(features.high, grid)
        mined = [self.mine(features.low[:, index], tile) for index, tile in enumerate(tiles)]
        if views > grid**2:
            whole = shrink(features.high, features.high.shape[2] // grid)
            mined.insert(0, self.mine(features.low[:, -1], whole))
        return torch.cat(mined, dim=1)

    def forward(self, features: DualFeatures) -> Tensor:
        return self.projection(self.prepare(features))

    @staticmethod
    def _tiles(high: Tensor, grid: int) -> list[Tensor]:
        """The map cut into grid x grid tiles in raster order."""
        rows = high.chunk(grid, dim=2)
        return [tile for row in rows for tile in row.chunk(grid, dim=3)]


def windows_of(high: Tensor, side: int) -> Tensor:
    """A map [B, A, H, W] -> the positions in the window of each of `side` x `side` patches, [B, n, s * s, A]."""
    window = high.shape[2] // side
    tiles = high.unflatten(3, (side, window)).unflatten(2, (side, window))  # [B, A, side, s, side, s]
    return tiles.permute(0, 2, 4, 3, 5, 1).flatten(3, 4).flatten(1, 2)
