"""First stage: teach the vision tower to see, with dense labels (`training.tiny.dense`)."""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from training.scenes.scene import sample_scene
from training.tiny.dense import DenseHeads, dense_targets
from training.tiny.images import pixel_values_of
from training.tiny.networks import PATCH_SIZE, TowerShape, build_vision_tower
from training.tiny.optimiser import LearningRates, build_optimisers, set_progress

logger = logging.getLogger(__name__)


RATES = LearningRates(muon=0.02, adamw=3e-3)


@dataclass(frozen=True, kw_only=True)
class TowerRecipe:
    """Everything that decides how the tower comes out."""

    shape: TowerShape
    steps: int
    batch: int = 48  # scenes per step
    rates: LearningRates = RATES
    decay_from: float = 0.6  # share of the steps after which the learning rates fall to zero
    seed: int = 1


def pretrain_tower(recipe: TowerRecipe, save_to: Path) -> None:
    """Train tower and read-out heads and save the state dicts of both, {"tower", "heads"}."""
    torch.manual_seed(recipe.seed)
    rng = np.random.default_rng([recipe.seed, 0])
    tower = build_vision_tower(recipe.shape, trains_ln_vision=False)
    heads = DenseHeads(recipe.shape.width)
    optimisers = build_optimisers([(tower, 1.0), (heads, 1.0)], recipe.rates)
    reports: dict[str, list[float]] = defaultdict(list)
    start = time.monotonic()
    for step in range(recipe.steps):
        progress = step / recipe.steps
        set_progress(optimisers, progress, decay_from=recipe.decay_from)
        # Crowded scenes have more labelled patches; a few sparse ones keep the counts honest.
        scenes = [sample_scene(rng, min_objects=3 if i % 3 else 1) for i in range(recipe.batch)]
        with torch.autocast("cpu", torch.bfloat16):
            features = tower(pixel_values=pixel_values_of(scenes, rng)).last_hidden_state[:, 1:]
            loss, report = heads.loss(features, dense_targets(scenes, PATCH_SIZE), bin_width=4 - 2.5 * progress)
        for optimiser in optimisers:
            optimiser.zero_grad(set_to_none=True)
        loss.backward()
        for optimiser in optimisers:
            optimiser.step()
        for key, value in {"loss": loss.item(), **report}.items():
            reports[key].append(value)
        if (step + 1) % 50 == 0 or step + 1 == recipe.steps:
            means = " ".join(f"{key} {np.nanmean(values):.3f}" for key, values in reports.items())
            logger.info("tower %d/%d %.0fs %s", step + 1, recipe.steps, time.monotonic() - start, means)
            reports.clear()
    torch.save({"tower": tower.state_dict(), "heads": heads.state_dict()}, save_to)
