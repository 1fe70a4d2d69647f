"""First stage: teach the vision tower to see, with labels for every patch (`training.tiny.patch_supervision`)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from numpy.random import Generator
from torch import Tensor, nn

from models.parts.dual_vision import DualVisionTower
from training.scenes import world as vocab
from training.scenes.hard_scenes import USUAL, SceneBlend
from training.tiny.images import pixel_values_of
from training.tiny.networks import TinyModel
from training.tiny.optimiser import LearningRates, build_optimiser
from training.tiny.patch_supervision import Grid, PatchHeads, PatchTargets, patch_targets
from training.tiny.tiny_trainer import PARTS, SceneBatches, StepLoss, read_state, run_folder, run_steps, write_state

_BACKGROUND_WEIGHT = 0.3  # of a patch that no object covers, when features are compared with a teacher's
_OBJECT_WEIGHT = 4.0  # of all patches of an object together
_LOG_EVERY = 50  # steps
RATES = LearningRates(muon=0.02, adamw=3e-3)


@dataclass(frozen=True, kw_only=True)
class TowerRecipe:
    """Everything that decides how the tower comes out."""

    steps: int
    batch: int = 48  # scenes per step, an even number
    blend: SceneBlend = USUAL
    rates: LearningRates = RATES
    tower_factor: float = 1.0  # on the learning rates of the vision tower; of two, the low-resolution one
    high_tower_factor: float = 1.0  # on those of the high-resolution one
    connector_factor: float = 1.0  # on those of the connector
    decay_from: float = 0.6  # share of the steps after which the learning rates fall to zero
    set_weight: float = 0.0  # of `PatchHeads.loss`; a tower that has learned to count forgets it where this is zero
    patch_weight: float = 1.0  # of the read-outs' loss
    teacher_weight: float = 0.0  # of how far the features are from a teacher's
    bin_widths: tuple[float, float] = (4.0, 1.5)  # of the soft coordinate labels, first and last
    seed: int = 1


@dataclass(frozen=True, kw_only=True)
class TowerBatch:
    """B scenes with their labels."""

    pixel_values: Tensor  # [B, 3, S, S]
    targets: PatchTargets
    bin_width: float  # of the soft coordinate labels


def tower_batches(recipe: TowerRecipe, grid: Grid) -> SceneBatches:
    """The batches of all steps."""
    first, last = recipe.bin_widths

    def make(rng: Generator, progress: float) -> TowerBatch:
        # Crowded scenes have more labelled patches; a few sparse ones keep the counts honest.
        scenes = [recipe.blend.sample(rng, min_objects=3 if i % 3 else 1) for i in range(recipe.batch // PARTS)]
        return TowerBatch(
            pixel_values=pixel_values_of(scenes, rng),
            targets=patch_targets(scenes, grid),
            bin_width=first + (last - first) * progress,
        )

    return SceneBatches(make, steps=recipe.steps, seed=recipe.seed)


class TowerStage(nn.Module):
    """The vision tower and the heads that read labels off its patches, with the loss of a `TowerBatch`.

    With a teacher, every patch is also to have the features that the teacher has there. They say more than labels do:
    a new tower learns from them several times sooner.
    """

    def __init__(self, model: TinyModel, heads: PatchHeads, recipe: TowerRecipe, teacher: TinyModel | None) -> None:
        super().__init__()
        self.model, self.heads, self.recipe = model, heads, recipe
        self.teacher = None if teacher is None else teacher.requires_grad_(False)

    def forward(self, batch: TowerBatch) -> StepLoss:
        """The loss; reports what the read-outs get right and how far the teacher is."""
        _, features = self.model.look(batch.pixel_values)
        patches, report = self.heads.loss(
            features, batch.targets, bin_width=batch.bin_width, set_weight=self.recipe.set_weight
        )
        loss = self.recipe.patch_weight * patches
        if self.teacher is not None:
            with torch.no_grad():
                wanted = self.teacher.look(batch.pixel_values)[1].float()
            missing = _missing(features, wanted, batch.targets)
            report["missing"] = missing.item()
            loss = loss + self.recipe.teacher_weight * missing
        return StepLoss(loss, report)


def pretrain_tower(
    model: TinyModel, heads: PatchHeads, recipe: TowerRecipe, save_to: Path, *, teacher: TinyModel | None = None
) -> None:
    """Train what `model` sees with, and the read-out heads; save the state dicts of both, {"model", "heads"}.

    A run that broke off is resumed; the saved state of one that is finished is loaded.
    """
    if not save_to.is_file():
        parts = [
            *tower_parts(model.vision_tower, recipe.tower_factor, recipe.high_tower_factor),
            (model.connector, recipe.connector_factor),
            (heads, 1.0),
        ]
        run_steps(
            TowerStage(model, heads, recipe, teacher),
            tower_batches(recipe, model.grid),
            build_optimiser(parts, recipe.rates),
            decay_from=recipe.decay_from,
            folder=run_folder(save_to),
            log_every=_LOG_EVERY,
        )
        seeing = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("language_model.")}
        write_state({"model": seeing, "heads": heads.state_dict()}, save_to)
    trained = read_state(save_to)
    model.load_state_dict(trained["model"], strict=False)  # all but the decoder
    heads.load_state_dict(trained["heads"])


def tower_parts(tower: nn.Module, factor: float, high_factor: float) -> list[tuple[nn.Module, float]]:
    """A tower, or both of Mini-Gemini's, with the factors on their learning rates."""
    if isinstance(tower, DualVisionTower):
        return [(tower.low, factor), (tower.high, high_factor)]
    return [(tower, factor)]


def patch_weights(targets: PatchTargets) -> Tensor:
    """[B, P]: how much each patch counts beside a teacher's; small objects as much as large ones, text twice."""
    is_text = targets.names >= len(vocab.SHAPES)
    return _BACKGROUND_WEIGHT + _OBJECT_WEIGHT * targets.shares * (targets.names >= 0) * (1 + is_text.float())


def _missing(features: Tensor, wanted: Tensor, targets: PatchTargets) -> Tensor:
    """Mean squared distance of features [B, P, D] from those wanted, in units of their spread."""
    weights = patch_weights(targets)
    distances = ((features.float() - wanted) / wanted.flatten(0, 1).std(0)).square().mean(-1)
    return (distances * weights).sum() / weights.sum()
