"""Mini-Gemini's high-resolution tower before it works with the other: it learns to see alone, then mining is fitted.

Beside a CLIP that sees already, a new ConvNeXt hardly learns: what it adds is noise at first.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.parts.dual_vision import ConvNextStages, DualVisionTower
from models.parts.patch_mining import PatchMiningConnector, windows_of
from training.tiny.networks import TinyModel
from training.tiny.patch_supervision import PatchHeads
from training.tiny.pretrain_tower import TowerBatch, TowerRecipe, patch_weights, pretrain_tower
from training.tiny.tiny_trainer import SceneBatches

_LAYER_SCALE = 0.4
_RIDGE = 1e-3  # of the mean square of an input
_QUERY_STD = 0.02


class HighReadModel(TinyModel):
    """The high-resolution tower by itself; its patch features are read from the mean of each patch's window."""

    def look(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        """Pixel values [B, 3, S, S] -> the features twice, [B, P, V]."""
        assert isinstance(self.vision_tower, ConvNextStages)
        channels = self.vision_tower.stages(pixel_values).float()
        means = functional.adaptive_avg_pool2d(channels, self.grid).flatten(2).transpose(1, 2)
        features = self.connector(means).float()
        features = functional.rms_norm(features, features.shape[-1:])
        return features, features


def spread_weights(high: ConvNextStages) -> None:
    """Draw weights that keep the size of what goes through; transformers' suit a far wider tower."""
    for name, parameter in high.named_parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
        elif name.endswith("layer_scale_parameter"):
            nn.init.constant_(parameter, _LAYER_SCALE)


def pretrain_high_tower(model: TinyModel, recipe: TowerRecipe, save_to: Path, *, channels: int, width: int) -> None:
    """Teach the high-resolution tower of `model` alone, with read-outs of its own; finished stages are not repeated."""
    assert isinstance(model.vision_tower, DualVisionTower)
    high = model.vision_tower.high
    spread_weights(high)
    read_out = nn.Sequential(nn.LayerNorm(channels), nn.Linear(channels, width))
    alone = HighReadModel(high, read_out, model.language_model, grid=model.grid)
    pretrain_tower(alone, PatchHeads(width), recipe, save_to)


@torch.no_grad()
def fit_mining(model: TinyModel, teacher: TinyModel, batches: SceneBatches, count: int) -> None:
    """Begin mining where it helps most: each window's mean, mapped to what the low-resolution tower's features lack.

    The value projection is the ridge regression of (teacher - low) [P, C] on the normed channels [P, A] of `count`
    batches; query and key are nearly zero, so that all of a window counts alike.
    """
    tower, connector = model.vision_tower, model.connector
    assert isinstance(tower, DualVisionTower)
    assert isinstance(connector, PatchMiningConnector)
    norm, value = connector.value
    assert isinstance(value, nn.Linear)
    squares, products = torch.zeros(()), torch.zeros(())
    for step in range(count):
        batch: TowerBatch = batches[step]["batch"]
        with torch.autocast("cpu", torch.bfloat16):
            features = tower.features(batch.pixel_values)
            wanted = teacher.look(batch.pixel_values)[1]
        lacking = (wanted.float() - features.low[:, 0].float()).flatten(0, 1)
        windows = windows_of(features.high.float(), model.grid[0])
        inputs = functional.pad(norm(windows).mean(2).flatten(0, 1), (0, 1), value=1.0)  # the last one for the bias
        weighted = (inputs * patch_weights(batch.targets).flatten()[:, None]).double().T
        squares, products = squares + weighted @ inputs.double(), products + weighted @ lacking.double()
    ridge = _RIDGE * squares.diagonal().mean() * torch.eye(len(squares), dtype=torch.double)
    solution = torch.linalg.solve(squares + ridge, products).float()
    value.weight.copy_(solution[:-1].T)
    value.bias.copy_(solution[-1])
    for projection in (connector.query[1], connector.key[1]):
        assert isinstance(projection, nn.Linear)
        nn.init.normal_(projection.weight, std=_QUERY_STD)
        nn.init.zeros_(projection.bias)
