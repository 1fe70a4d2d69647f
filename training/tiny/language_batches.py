"""Second stage: the recipe, and from it the batches of every step."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import groupby

import torch
from numpy.random import Generator
from torch import Tensor

from training.scenes.hard_scenes import USUAL, SceneBlend
from training.scenes.question_makers import vary
from training.scenes.small_talk import small_talk
from training.scenes.task_mixtures import TaskMixture
from training.scenes.world import MAX_OBJECTS
from training.tiny.images import pixel_values_of
from training.tiny.mention_supervision import MentionTargets, mention_targets
from training.tiny.optimiser import LearningRates
from training.tiny.packed_rows import RowBlock
from training.tiny.patch_supervision import Grid, PatchTargets, patch_targets
from training.tiny.tiny_trainer import PARTS, SceneBatches
from training.tiny.token_rows import RowFormat, TokenRow

_CROWD = 5
_TEXT_ONLY_ROWS = 2  # per batch
_MODERATE_LENGTH = 40  # tokens
_LENGTH_STEPS = (4, 16)  # lengths are multiples of the first, of the second where they are more than moderate


RATES = LearningRates(muon=0.007, adamw=1.5e-3)


@dataclass(frozen=True, kw_only=True)
class LanguageRecipe:
    """Everything that decides how the language stage goes."""

    steps: int
    mixture: TaskMixture
    late_mixture: TaskMixture | None = None  # takes over at `late_from`
    late_from: float = 0.625
    images: int = 24  # scenes per step, an even number
    rows: int = 10  # questions per scene
    blend: SceneBlend = USUAL
    crowded: float = 0.0  # share of the scenes that have five objects or more
    rates: LearningRates = RATES
    tower_factor: float = 0.3  # on the learning rates of the vision tower; of two, the low-resolution one
    high_tower_factor: float = 0.5  # on those of the high-resolution one
    connector_factor: float = 1.0  # on those of the connector
    patch_weight: float = 0.1  # of the first stage's loss, kept on
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
class PackedRows:
    """Rows of different lengths one after the other, T tokens; A of them are answered, at M objects are mentioned."""

    ids: Tensor  # [T]
    targets: Tensor  # [T] the next token, -1 where nothing is predicted
    blocks: list[RowBlock]  # those about a scene first
    weights: Tensor  # [A] of each answer token in the loss
    unseen: Tensor  # [A] an id that it is not compared with, or -1: see `TokenRow.unseen`
    mentions: Tensor  # [M] index into the tokens
    mention_targets: MentionTargets
    tasks: tuple[tuple[str, int], ...]  # task and number of answer tokens of each row


@dataclass(frozen=True, kw_only=True)
class LanguageBatch:
    """B scenes with questions about them."""

    pixel_values: Tensor  # [B, 3, S, S]
    patches: PatchTargets
    rows: PackedRows
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
    num_scenes = recipe.images // PARTS
    num_crowded = round(num_scenes * recipe.crowded)
    scenes = [
        recipe.blend.sample(rng, min_objects=min(_CROWD, most) if i < num_crowded else 1, max_objects=most)
        for i in range(num_scenes)
    ]
    mixture = recipe.late_mixture if recipe.late_mixture and progress >= recipe.late_from else recipe.mixture
    drawn = [row_format.draw_rows(mixture, rng, scene, recipe.rows) for scene in scenes]
    rows = [(i, row) for i, of_scene in enumerate(drawn) for row in of_scene]
    rows += [(-1, row_format.row([vary(rng, small_talk(rng))], has_image=False)) for _ in range(_TEXT_ONLY_ROWS)]
    first, last = recipe.bin_widths
    return LanguageBatch(
        pixel_values=pixel_values_of(scenes, rng),
        patches=patch_targets(scenes, grid),
        rows=pack_rows(rows, mixture, grid),
        bin_width=first + (last - first) * min(1.0, progress * 1.25),
    )


def pack_rows(numbered: list[tuple[int, TokenRow]], mixture: TaskMixture, grid: Grid) -> PackedRows:
    """Rows with the number of their scene beside them, -1 for text alone."""
    numbered = sorted(numbered, key=lambda pair: (pair[0] < 0, _length(pair[1])))
    rows = [row for _, row in numbered]
    starts = [0]
    for row in rows:
        starts.append(starts[-1] + _length(row))
    ids, targets = torch.zeros(starts[-1], dtype=torch.long), torch.full((starts[-1],), -1)
    for row, start in zip(rows, starts, strict=False):
        tokens = torch.tensor(row.prompt + row.answer)
        end = start + len(tokens) - 1
        ids[start:end] = tokens[:-1]
        targets[end - len(row.answer) : end] = tokens[-len(row.answer) :]
    weights = [mixture.emphasis.get(row.task, 1.0) * len(row.answer) ** -0.5 for row in rows for _ in row.answer]
    mentions = [(start, mention) for start, row in zip(starts, rows, strict=False) for mention in row.mentions]
    alike = groupby(numbered, key=lambda pair: (pair[0] < 0, _length(pair[1])))
    return PackedRows(
        ids=ids,
        targets=targets,
        blocks=[
            RowBlock(length=length, has_image=not is_text, images=torch.tensor([image for image, _ in block]))
            for (is_text, length), block in alike
        ],
        weights=torch.tensor(weights),
        unseen=torch.tensor([other for row in rows for other in row.unseen], dtype=torch.long),
        mentions=torch.tensor([start + mention.index for start, mention in mentions], dtype=torch.long),
        mention_targets=mention_targets([mention for _, mention in mentions], grid),
        tasks=tuple((row.task, len(row.answer)) for row in rows),
    )


def _length(row: TokenRow) -> int:
    """Tokens that are read, rounded up: with rows of every length the blocks would be many and small."""
    length = len(row.prompt) + len(row.answer) - 1
    step = _LENGTH_STEPS[length > _MODERATE_LENGTH]
    return -(-length // step) * step
