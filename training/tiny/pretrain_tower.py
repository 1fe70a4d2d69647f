"""First stage: teach the vision tower to see, with dense labels (`training.tiny.dense`)."""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from models.parts.dual_vision import DualVisionTower
from training.scenes.scene import sample_scene
from training.tiny.dense import DenseHeads, DenseTargets, dense_targets
from training.tiny.images import pixel_values_of
from training.tiny.networks import TinyModel
from training.tiny.optimiser import LearningRates, build_optimisers, set_progress

logger = logging.getLogger(__name__)


_BACKGROUND_WEIGHT = 0.3  # of a patch that no object covers, when features are compared with a teacher's
_OBJECT_WEIGHT = 4.0  # of all patches of an object together
RATES = LearningRates(muon=0.02, adamw=3e-3)


@dataclass(frozen=True, kw_only=True)
class TowerRecipe:
    """Everything that decides how the tower comes out."""

    steps: int
    batch: int = 48  # scenes per step
    rates: LearningRates = RATES
    tower_factor: float = 1.0  # on the learning rates of the vision tower; of two, the low-resolution one
    high_tower_factor: float = 1.0  # on those of the high-resolution one
    heads_factor: float = 1.0  # on those of the read-outs
    decay_from: float = 0.6  # share of the steps after which the learning rates fall to zero
    set_weight: float = 0.0  # of `DenseHeads.loss`; a tower that has learned to count forgets it where this is zero
    dense_weight: float = 1.0  # of the read-outs' loss
    teacher_weight: float = 0.0  # of how far the features are from a teacher's
    bin_widths: tuple[float, float] = (4.0, 1.5)  # of the soft coordinate labels, first and last
    seed: int = 1


def pretrain_tower(
    model: TinyModel, heads: DenseHeads, recipe: TowerRecipe, save_to: Path, *, teacher: TinyModel | None = None
) -> None:
    """Train what `model` sees with, and the read-out heads; save the state dicts of both, {"model", "heads"}.

    With a teacher, every patch is also to have the features that the teacher has there. They say more than labels do:
    a new tower learns from them several times sooner.
    """
    rng = np.random.default_rng([recipe.seed, 0])
    optimisers = build_optimisers(_learning_parts(model, heads, recipe), recipe.rates)
    reports: dict[str, list[float]] = defaultdict(list)
    start = time.monotonic()
    for step in range(recipe.steps):
        progress = step / recipe.steps
        set_progress(optimisers, progress, decay_from=recipe.decay_from)
        width = recipe.bin_widths[0] + (recipe.bin_widths[1] - recipe.bin_widths[0]) * progress
        # Crowded scenes have more labelled patches; a few sparse ones keep the counts honest.
        scenes = [sample_scene(rng, min_objects=3 if i % 3 else 1) for i in range(recipe.batch)]
        targets = dense_targets(scenes, model.grid)
        pixel_values = pixel_values_of(scenes, rng)
        with torch.autocast("cpu", torch.bfloat16):
            _, features = model.look(pixel_values)
            dense, report = heads.loss(features, targets, bin_width=width, set_weight=recipe.set_weight)
        loss = recipe.dense_weight * dense
        if teacher is not None:
            missing = _missing(features, teacher, pixel_values, targets)
            report["missing"] = missing.item()
            loss = loss + recipe.teacher_weight * missing
        for optimiser in optimisers:
            optimiser.zero_grad(set_to_none=True)
        loss.backward()
        for optimiser in optimisers:
            optimiser.step()
        for key, value in {"loss": loss.item(), **report}.items():
            reports[key].append(value)
        if (step + 1) % 50 == 0 or step + 1 == recipe.steps:
            known = {key: [value for value in values if not np.isnan(value)] for key, values in reports.items()}
            means = " ".join(f"{key} {np.mean(values):.3f}" for key, values in known.items() if values)
            logger.info("tower %d/%d %.0fs %s", step + 1, recipe.steps, time.monotonic() - start, means)
            reports.clear()
    seeing = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("language_model.")}
    torch.save({"model": seeing, "heads": heads.state_dict()}, save_to)


def _learning_parts(model: TinyModel, heads: DenseHeads, recipe: TowerRecipe) -> list[tuple[nn.Module, float]]:
    """What learns, and how fast."""
    towers = tower_parts(model.vision_tower, recipe.tower_factor, recipe.high_tower_factor)
    return [*towers, (model.connector, 1.0), (heads, recipe.heads_factor)]


def tower_parts(tower: nn.Module, factor: float, high_factor: float) -> list[tuple[nn.Module, float]]:
    """A tower, or both of Mini-Gemini's, with the factors on their learning rates."""
    if isinstance(tower, DualVisionTower):
        return [(tower.low, factor), (tower.high, high_factor)]
    return [(tower, factor)]


def _missing(features: Tensor, teacher: TinyModel, pixel_values: Tensor, targets: DenseTargets) -> Tensor:
    """Mean squared distance of features [B, P, D] from the teacher's, in units of their spread; small objects count as
    much as large ones."""
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        wanted = teacher.look(pixel_values)[1].float()
    weights = _BACKGROUND_WEIGHT + _OBJECT_WEIGHT * targets.shares * (targets.names >= 0)
    distances = ((features.float() - wanted) / wanted.flatten(0, 1).std(0)).square().mean(-1)
    return (distances * weights).sum() / weights.sum()
