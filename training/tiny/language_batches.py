"""Second stage: the recipe, and from it the batch of every step."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor

from training.scenes.hard_scenes import USUAL, SceneBlend
from training.scenes.questions import vary
from training.scenes.small_talk import small_talk
from training.scenes.vocabulary import MAX_OBJECTS
from training.tiny.dense import DenseTargets, Grid, dense_targets
from training.tiny.images import pixel_values_of
from training.tiny.mentions import MentionTargets, mention_targets
from training.tiny.optimiser import LearningRates
from training.tiny.rows import Mixture, Row, RowFormat
from training.tiny.trainer import SceneBatches

_BUCKETS = 6  # rows are sorted by length and run in this many groups, so that little is padding
_CROWD = 5
_TEXT_ONLY_ROWS = 3  # per step


RATES = LearningRates(muon=0.007, adamw=1.5e-3)


@dataclass(frozen=True, kw_only=True)
class LanguageRecipe:
    """Everything that decides how the language stage goes."""

    steps: int
    mixture: Mixture
    late_mixture: Mixture | None = None  # takes over at `late_from`
    late_from: float = 0.625
    images: int = 24  # scenes per step
    rows: int = 10  # questions per scene
    blend: SceneBlend = USUAL
    crowded: float = 0.0  # share of the scenes that have five objects or more
    rates: LearningRates = RATES
    tower_factor: float = 0.3  # on the learning rates of the vision tower; of two, the low-resolution one
    high_tower_factor: float = 0.5  # on those of the high-resolution one
    connector_factor: float = 1.0  # on those of the connector
    decoder_factor: float = 1.0  # on those of the decoder
    dense_weight: float = 0.1  # of the first stage's loss, kept on
    mention_weight: float = 0.5  # of the loss that locates phrases of the prompt
    mention_layer: int = 3  # decoder layers below the read-out
    balance_weight: float = 0.0  # of the losses that keep experts equally busy, per run of the decoder
    set_weight: float = 0.0  # of the losses about all objects that a phrase fits, one or several or none
    decay_from: float = 0.5
    bin_widths: tuple[float, float] = (8.0, 1.5)  # of the soft coordinate labels, first and last
    # (share of the steps until which it holds, most objects per scene)
    curriculum: tuple[tuple[float, int], ...] = field(default=((0.04, 2), (0.09, 4), (0.16, 6)))
    seed: int = 2


@dataclass(frozen=True, kw_only=True)
class RowGroup:
    """R rows that run together, padded on the right to one length L; A answer tokens, M mentions."""

    ids: Tensor  # [R, L]
    targets: Tensor  # [R, L] the next token, -1 where nothing is predicted
    images: Tensor | None  # [R] which scene each row is about; None for text alone
    weights: Tensor  # [A] of each answer token in the loss
    mentions: Tensor  # [2, M] row and index of each mention
    mention_targets: MentionTargets
    tasks: tuple[tuple[str, int], ...]  # task and number of answer tokens of each row


@dataclass(frozen=True, kw_only=True)
class LanguageBatch:
    """B scenes with questions about them."""

    pixel_values: Tensor  # [B, 3, S, S]
    dense: DenseTargets
    groups: list[RowGroup]
    bin_width: float  # of the soft coordinate labels


def language_batches(recipe: LanguageRecipe, row_format: RowFormat, grid: Grid) -> SceneBatches:
    """The batches of all steps."""

    def make(rng: Generator, progress: float) -> LanguageBatch:
        return _language_batch(recipe, row_format, grid, rng, progress)

    return SceneBatches(make, steps=recipe.steps, seed=recipe.seed)


def _language_batch(
    recipe: LanguageRecipe, row_format: RowFormat, grid: Grid, rng: Generator, progress: float
) -> LanguageBatch:
    most = next((count for until, count in recipe.curriculum if progress < until), MAX_OBJECTS)
    num_crowded = round(recipe.images * recipe.crowded)
    scenes = [
        recipe.blend.sample(rng, min_objects=min(_CROWD, most) if i < num_crowded else 1, max_objects=most)
        for i in range(recipe.images)
    ]
    mixture = recipe.late_mixture if recipe.late_mixture and progress >= recipe.late_from else recipe.mixture
    rows = [(i, row) for i, scene in enumerate(scenes) for row in mixture.rows(rng, scene, row_format, recipe.rows)]
    rows.sort(key=lambda pair: len(pair[1].prompt) + len(pair[1].answer))
    talk = [(-1, row_format.row([vary(rng, small_talk(rng))], has_image=False)) for _ in range(_TEXT_ONLY_ROWS)]
    bounds = np.linspace(0, len(rows), _BUCKETS + 1).astype(int)
    groups = [rows[a:b] for a, b in pairwise(bounds) if a < b] + [talk]
    first, last = recipe.bin_widths
    return LanguageBatch(
        pixel_values=pixel_values_of(scenes, rng),
        dense=dense_targets(scenes, grid),
        groups=[row_group(group, mixture, grid) for group in groups],
        bin_width=first + (last - first) * min(1.0, progress * 1.25),
    )


def row_group(group: list[tuple[int, Row]], mixture: Mixture, grid: Grid) -> RowGroup:
    """Rows with the number of their scene beside them; -1 for none, which all of them or none have."""
    rows = [row for _, row in group]
    length = max(len(row.prompt) + len(row.answer) for row in rows) - 1
    ids = torch.zeros(len(rows), length, dtype=torch.long)
    targets = torch.full((len(rows), length), -1)
    for i, row in enumerate(rows):
        tokens = torch.tensor(row.prompt + row.answer)
        ids[i, : len(tokens) - 1] = tokens[:-1]
        targets[i, len(row.prompt) - 1 : len(tokens) - 1] = torch.tensor(row.answer)
    weights = torch.tensor([len(row.answer) ** -0.5 for row in rows])[:, None].expand_as(targets)[targets >= 0]
    emphasis = [mixture.emphasis.get(row.task, 1.0) for row in rows for _ in row.answer]
    mentions = [(i, mention) for i, row in enumerate(rows) for mention in row.mentions]
    return RowGroup(
        ids=ids,
        targets=targets,
        images=torch.tensor([image for image, _ in group]) if group[0][0] >= 0 else None,
        weights=weights * torch.tensor(emphasis),
        mentions=torch.tensor([(i, mention.index) for i, mention in mentions], dtype=torch.long).view(-1, 2).T,
        mention_targets=mention_targets([mention for _, mention in mentions], grid),
        tasks=tuple((row.task, len(row.answer)) for row in rows),
    )
