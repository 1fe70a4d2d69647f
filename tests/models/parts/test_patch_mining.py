"""Mini-Gemini's towers and mining against slow loops written from the description, HD included."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from transformers import CLIPVisionConfig, ConvNextConfig

from models.parts.dual_vision import ClipPatches, ConvNextStages, DualFeatures, DualVisionTower
from models.parts.patch_mining import PatchMiningConnector

SIDE, WINDOW = 4, 2  # CLIP patches along one side of a view; high-resolution positions of each along one side


@pytest.fixture(scope="module")
def connector() -> PatchMiningConnector:
    torch.manual_seed(0)
    return PatchMiningConnector(vision_width=8, aux_width=6, text_width=10).eval().requires_grad_(False)


def mine_slowly(connector: PatchMiningConnector, low: Tensor, high: Tensor) -> Tensor:
    """[n, C] and [A, H, W] -> [n, C], one patch at a time."""
    mined = []
    for index, patch in enumerate(low):
        row, column = divmod(index, SIDE)
        window = high[:, row * WINDOW : (row + 1) * WINDOW, column * WINDOW : (column + 1) * WINDOW]
        positions = torch.stack([window[:, y, x] for y in range(WINDOW) for x in range(WINDOW)])
        logits = connector.key(positions) @ connector.query(patch) / low.shape[1] ** 0.5
        mined.append(patch + logits.softmax(0) @ connector.value(positions))
    return torch.stack(mined)


def test_each_patch_mines_its_own_window(connector: PatchMiningConnector) -> None:
    features = DualFeatures(torch.randn(2, 1, SIDE**2, 8), torch.randn(2, 6, SIDE * WINDOW, SIDE * WINDOW))
    mined = connector.prepare(features)
    for picture in range(2):
        expected = mine_slowly(connector, features.low[picture, 0], features.high[picture])
        torch.testing.assert_close(mined[picture], expected, rtol=0, atol=1e-5)


def test_hd_puts_the_whole_first_and_then_the_crops_in_raster_order(connector: PatchMiningConnector) -> None:
    size = 2 * SIDE * WINDOW
    features = DualFeatures(torch.randn(1, 5, SIDE**2, 8), torch.randn(1, 6, size, size))
    whole = functional.interpolate(features.high, scale_factor=0.5, mode="bilinear", align_corners=False)[0]
    expected = [mine_slowly(connector, features.low[0, 4], whole)]
    for crop in range(4):
        row, column = divmod(crop, 2)
        half = size // 2
        tile = features.high[0, :, row * half : (row + 1) * half, column * half : (column + 1) * half]
        expected.append(mine_slowly(connector, features.low[0, crop], tile))
    torch.testing.assert_close(connector.prepare(features)[0], torch.cat(expected), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("grid", "views"), [(1, 1), (2, 4), (2, 5), (3, 9), (3, 10)])
def test_as_many_tokens_as_all_views_have_patches(connector: PatchMiningConnector, grid: int, views: int) -> None:
    side = grid * SIDE * WINDOW
    features = DualFeatures(torch.randn(1, views, SIDE**2, 8), torch.randn(1, 6, side, side))
    mined = connector.prepare(features)
    assert mined.shape == (1, views * SIDE**2, 8)
    last = features.high[0, :, -SIDE * WINDOW :, -SIDE * WINDOW :]
    expected = mine_slowly(connector, features.low[0, grid**2 - 1], last)
    torch.testing.assert_close(mined[0, -(SIDE**2) :], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("grid", "has_global", "views"), [(1, False, 1), (2, True, 5), (2, False, 4), (3, True, 10), (3, False, 9)]
)
def test_views_of_a_picture(grid: int, has_global: bool, views: int) -> None:
    clip = CLIPVisionConfig(
        hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2, image_size=8, patch_size=2
    )
    convnext = ConvNextConfig(hidden_sizes=[2, 2, 2, 2], depths=[1, 1, 1, 1])
    tower = DualVisionTower(low=ClipPatches(clip), high=ConvNextStages(convnext), grid=grid, has_global=has_global)
    pixel_values = torch.randn(2, 3, 64, 64)
    low = tower.low_views(pixel_values)
    assert low.shape == (2, views, 3, 8, 8)
    assert tower.num_views == views
    full = functional.interpolate(pixel_values, size=(8 * grid, 8 * grid), mode="bilinear", align_corners=False)
    for crop in range(grid**2):
        row, column = divmod(crop, grid)
        assert torch.equal(low[:, crop], full[:, :, row * 8 : (row + 1) * 8, column * 8 : (column + 1) * 8])
    if has_global:
        assert torch.equal(low[:, -1], functional.interpolate(full, size=(8, 8), mode="bilinear", align_corners=False))
    features = tower.eval().features(pixel_values)
    assert features.low.shape == (2, views, 16, 8)
    assert features.high.shape == (2, 8, 16, 16)
