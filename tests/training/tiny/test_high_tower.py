"""A second tower that joins the first."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from models.parts.dual_vision import DualVisionTower
from tests.paths import ROOT
from training.evaluation.low_resolution import leave_out_mining
from training.scenes.world import SHAPES
from training.tiny.families.mini_gemini import HIGH_WIDTHS, LOW, MiniGemini
from training.tiny.high_tower import HighReadModel, fit_mining, pretrain_high_tower, spread_weights
from training.tiny.networks import PATCH_GRID, TinyModel
from training.tiny.optimiser import LearningRates
from training.tiny.pretrain_tower import TowerRecipe, patch_weights, tower_batches

RECIPE = TowerRecipe(steps=1, batch=2, rates=LearningRates(muon=0.01, adamw=1e-3))


@pytest.fixture
def mini_gemini(tmp_path: Path) -> TinyModel:
    torch.manual_seed(0)
    tokenizer = ROOT / "checkpoints" / "tiny_minigpt_v2" / "llama" / "tokenizer.model"
    model, _ = MiniGemini(tmp_path, tokenizer).build()
    return model


def test_the_high_tower_keeps_the_size_of_what_goes_through(mini_gemini: TinyModel) -> None:
    assert isinstance(mini_gemini.vision_tower, DualVisionTower)
    high = mini_gemini.vision_tower.high
    spread_weights(high)
    with torch.no_grad():
        channels = high.stages(torch.randn(2, 3, 144, 144))
    for stage in channels.split(list(HIGH_WIDTHS), dim=1):
        assert 0.3 < stage.square().mean().sqrt() < 3


def test_the_high_tower_is_trained_alone_and_once(mini_gemini: TinyModel, tmp_path: Path) -> None:
    assert isinstance(mini_gemini.vision_tower, DualVisionTower)
    low = {name: tensor.clone() for name, tensor in mini_gemini.vision_tower.low.state_dict().items()}
    arguments = {"channels": sum(HIGH_WIDTHS), "width": LOW.width}
    pretrain_high_tower(mini_gemini, RECIPE, tmp_path / "high.pt", **arguments)
    trained = mini_gemini.vision_tower.high.state_dict()
    trained = {name: tensor.clone() for name, tensor in trained.items()}
    pretrain_high_tower(mini_gemini, RECIPE, tmp_path / "high.pt", **arguments)  # from the file
    for name, tensor in mini_gemini.vision_tower.high.state_dict().items():
        assert torch.equal(tensor, trained[name])
    for name, tensor in mini_gemini.vision_tower.low.state_dict().items():
        assert torch.equal(tensor, low[name])


def test_patches_read_their_own_window(mini_gemini: TinyModel) -> None:
    assert isinstance(mini_gemini.vision_tower, DualVisionTower)
    high = mini_gemini.vision_tower.high
    alone = HighReadModel(high, nn.Identity(), mini_gemini.language_model, grid=PATCH_GRID)
    with torch.no_grad():
        channels = high.stages(pixel_values := torch.randn(1, 3, 144, 144))
        features, _ = alone.look(pixel_values)
    side = channels.shape[-1] // PATCH_GRID[1]
    expected = channels[0, :, 2 * side : 3 * side, 5 * side : 6 * side].mean((1, 2))
    expected = nn.functional.rms_norm(expected, expected.shape)
    torch.testing.assert_close(features[0, 2 * PATCH_GRID[1] + 5], expected)


class Teacher(TinyModel):
    """Sees what the student's low tower sees, plus a linear map of its high tower's windows."""

    def look(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        assert isinstance(self.vision_tower, DualVisionTower)
        features = self.vision_tower.features(pixel_values)
        means = nn.functional.adaptive_avg_pool2d(features.high.float(), PATCH_GRID).flatten(2).transpose(1, 2)
        wanted = features.low[:, 0] + self.connector(nn.functional.layer_norm(means, means.shape[-1:]))
        return wanted, wanted


def test_mining_begins_with_what_the_low_tower_lacks(mini_gemini: TinyModel) -> None:
    assert isinstance(mini_gemini.vision_tower, DualVisionTower)
    spread_weights(mini_gemini.vision_tower.high)
    teacher = Teacher(
        mini_gemini.vision_tower, nn.Linear(sum(HIGH_WIDTHS), LOW.width), mini_gemini.language_model, grid=PATCH_GRID
    )
    batches = tower_batches(TowerRecipe(steps=8, batch=4), PATCH_GRID)
    fit_mining(mini_gemini, teacher, batches, 7)

    def missing() -> float:
        batch = batches[7]["batch"]
        with torch.no_grad():
            wanted, found = teacher.look(batch.pixel_values)[1], mini_gemini.look(batch.pixel_values)[1]
        weights = patch_weights(batch.targets)
        return float(((found - wanted).square().mean(-1) * weights).sum() / weights.sum())

    fitted = missing()
    leave_out_mining(mini_gemini.connector)
    assert fitted < 0.2 * missing()


def test_text_counts_twice_beside_a_teacher() -> None:
    batch = tower_batches(TowerRecipe(steps=1, batch=8), PATCH_GRID)[0]["batch"]
    weights = patch_weights(batch.targets)
    names, shares = batch.targets.names, batch.targets.shares
    times = (weights - 0.3) / (4 * shares)
    np.testing.assert_allclose(weights[names < 0], 0.3, rtol=1e-6)
    np.testing.assert_allclose(times[(names >= 0) & (names < len(SHAPES))], 1, rtol=1e-4)
    np.testing.assert_allclose(times[names >= len(SHAPES)], 2, rtol=1e-4)
