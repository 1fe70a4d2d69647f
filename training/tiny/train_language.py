"""Second stage: connector and decoder learn to answer, with the tower along at a lower rate."""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.random import Generator
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer
from transformers.modeling_outputs import BaseModelOutputWithPast

from models.parts.sparse_decoders import SparseDecoder
from training.scenes.questions import vary
from training.scenes.scene import sample_scene
from training.scenes.small_talk import small_talk
from training.scenes.vocabulary import MAX_OBJECTS
from training.tiny.dense import NUM_BINS, dense_targets, soft_bins
from training.tiny.images import pixel_values_of
from training.tiny.mentions import MentionTargets, TrainingHeads, mention_targets
from training.tiny.networks import TinyModel
from training.tiny.optimiser import LearningRates, build_optimisers, set_progress
from training.tiny.pretrain_tower import tower_parts
from training.tiny.rows import Mixture, Row, RowFormat

logger = logging.getLogger(__name__)

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


class LanguageTrainer:
    """Runs the steps; `save_to` always holds a state from which the next `run` goes on."""

    def __init__(
        self,
        model: TinyModel,
        heads: TrainingHeads,
        row_format: RowFormat,
        coordinate_ids: list[int],
        recipe: LanguageRecipe,
        save_to: Path,
        *,
        opening_ids: list[int] | None = None,
    ) -> None:
        self.model, self.heads, self.row_format, self.recipe, self.save_to = model, heads, row_format, recipe, save_to
        self.coordinate_ids = torch.tensor(coordinate_ids)
        self.bin_of = torch.full((model.language_model.config.vocab_size,), -1)
        self.bin_of[self.coordinate_ids] = torch.arange(NUM_BINS)
        # In a vocabulary without pieces such as <7>, a number is a coordinate if "<" comes before it.
        self.opens = (
            None if opening_ids is None else torch.isin(torch.arange(len(self.bin_of)), torch.tensor(opening_ids))
        )
        self.prefix = torch.tensor(row_format.prefix())
        self.optimisers = build_optimisers(
            [
                *tower_parts(model.vision_tower, recipe.tower_factor, recipe.high_tower_factor),
                (heads.dense, recipe.tower_factor),
                (model.connector, recipe.connector_factor),
                (model.language_model, recipe.decoder_factor),
                (heads.mention, 1.0),
            ],
            recipe.rates,
        )
        self.first_step = 0
        self._balance: list[Tensor] = []  # losses of the step's runs, one per layer with experts

    def resume(self) -> None:
        """Go on from the state in `save_to`."""
        state = torch.load(self.save_to, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.heads.load_state_dict(state["heads"])
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        self.first_step = state["step"]

    def save(self, step: int) -> None:
        """Write the whole state to `save_to`, replacing the old one only when the new one is complete."""
        state = {
            "model": self.model.state_dict(),
            "heads": self.heads.state_dict(),
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
            "step": step,
        }
        partial = self.save_to.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(self.save_to)

    def run(self) -> None:
        """Train to the end of the recipe, from the state in `save_to` if there is one."""
        if self.save_to.is_file():
            self.resume()
        reports: dict[str, list[float]] = defaultdict(list)
        start = time.monotonic()
        for step in range(self.first_step, self.recipe.steps):
            progress = step / self.recipe.steps
            set_progress(self.optimisers, progress, decay_from=self.recipe.decay_from)
            rng = np.random.default_rng([self.recipe.seed, step])  # a resumed run sees what it would have seen
            for optimiser in self.optimisers:
                optimiser.zero_grad(set_to_none=True)
            loss, report = self.loss(rng, progress)
            loss.backward()
            for optimiser in self.optimisers:
                optimiser.step()
            for key, value in report.items():
                reports[key].append(value)
            if (step + 1) % 25 == 0 or step + 1 == self.recipe.steps:
                means = " ".join(f"{key} {np.mean(values):.2f}" for key, values in sorted(reports.items()))
                logger.info("step %d/%d %.0fs %s", step + 1, self.recipe.steps, time.monotonic() - start, means)
                reports.clear()
            if (step + 1) % 100 == 0 or step + 1 == self.recipe.steps:
                self.save(step + 1)

    def loss(self, rng: Generator, progress: float) -> tuple[Tensor, dict[str, float]]:
        """Loss of one step on fresh scenes, and the mean token loss per task for the log."""
        recipe = self.recipe
        most = next((count for until, count in recipe.curriculum if progress < until), MAX_OBJECTS)
        num_crowded = round(recipe.images * recipe.crowded)
        scenes = [
            sample_scene(rng, min_objects=_CROWD if i < num_crowded else 1, max_objects=most)
            for i in range(recipe.images)
        ]
        mixture = recipe.late_mixture if recipe.late_mixture and progress >= recipe.late_from else recipe.mixture
        rows = [
            (i, row) for i, scene in enumerate(scenes) for row in mixture.rows(rng, scene, self.row_format, recipe.rows)
        ]
        rows.sort(key=lambda pair: len(pair[1].prompt) + len(pair[1].answer))
        talk = [self.row_format.row([vary(rng, small_talk(rng))], has_image=False) for _ in range(_TEXT_ONLY_ROWS)]
        width = recipe.bin_widths[0] + (recipe.bin_widths[1] - recipe.bin_widths[0]) * min(1.0, progress * 1.25)
        with torch.autocast("cpu", torch.bfloat16):
            image_embeds, features = self.model.look(pixel_values_of(scenes, rng))
            dense, dense_report = self.heads.dense.loss(
                features, dense_targets(scenes, self.model.grid), bin_width=1.5, set_weight=recipe.set_weight
            )
            self._balance.clear()
            keys_values = self._read_image(image_embeds)
            losses, weights, tasks = [], [], []
            mentions: list[tuple[Tensor, MentionTargets]] = []
            bounds = np.linspace(0, len(rows), _BUCKETS + 1).astype(int)
            groups = [rows[a:b] for a, b in pairwise(bounds) if a < b] + [[(-1, row) for row in talk]]
            for group in groups:
                token_losses, token_weights, group_mentions = self._run_rows(group, keys_values, width)
                emphasis = [mixture.emphasis.get(row.task, 1.0) for _, row in group for _ in row.answer]
                token_weights = token_weights * torch.tensor(emphasis)
                mentions.append(group_mentions)
                losses.append(token_losses)
                weights.append(token_weights)
                tasks += [(row.task, len(row.answer)) for _, row in group]
            hidden, mention_labels = zip(*mentions, strict=True)
            mention, mention_report = self.heads.mention.loss(
                torch.cat(hidden), MentionTargets.cat(mention_labels), bin_width=2.0, set_weight=recipe.set_weight
            )
        flat, weight = torch.cat(losses), torch.cat(weights)
        report = {key: dense_report[key] for key in ("bins_iou75", "name", "count", "alike")} | mention_report
        report |= {f"loss_{task}": value for task, value in _by_task(flat.detach(), tasks).items()}
        answers = (flat * weight).sum() / weight.sum()
        loss = answers + recipe.dense_weight * dense + recipe.mention_weight * mention
        if self._balance:
            balance = torch.stack(self._balance).mean()
            report["balance"] = balance.item()
            loss = loss + recipe.balance_weight * balance
        return loss, report

    def _read_image(self, image_embeds: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Run the decoder over prefix and image tokens once per scene: keys and values of every layer."""
        embed = self.model.language_model.get_input_embeddings()
        prefix = embed(self.prefix).expand(len(image_embeds), -1, -1)
        cache = DynamicCache(config=self.model.language_model.config)
        self._decode(inputs_embeds=torch.cat((prefix, image_embeds), dim=1), past_key_values=cache)
        layers = [layer for layer in cache.layers if isinstance(layer, DynamicLayer)]
        return [(layer.keys, layer.values) for layer in layers if layer.keys is not None and layer.values is not None]

    def _decode(self, **inputs: Any) -> BaseModelOutputWithPast:
        """Run the decoder without its head, and keep what its experts say about their balance."""
        decoder = self.model.language_model
        output: BaseModelOutputWithPast = decoder.model(use_cache=True, **inputs)
        if isinstance(decoder, SparseDecoder):
            found = [layer.balance_loss for layer in decoder.sparse_layers.values()]
            self._balance += [loss for loss in found if loss is not None]
        return output

    def _run_rows(
        self, group: list[tuple[int, Row]], keys_values: list[tuple[Tensor, Tensor]], bin_width: float
    ) -> tuple[Tensor, Tensor, tuple[Tensor, MentionTargets]]:
        """Run rows padded to one length; the number beside each is its image, or -1 for none.

        Returns loss and weight of every answer token, and what `MentionHead.loss` takes.
        """
        ids, targets = _padded(group)
        cache = DynamicCache(config=self.model.language_model.config)
        past = 0
        if group[0][0] >= 0:
            images = torch.tensor([image for image, _ in group])
            past = keys_values[0][0].shape[2]
            for layer, (keys, values) in enumerate(keys_values):
                cache.update(keys[images], values[images], layer)
        # Padding is on the right, where causality alone keeps it out of sight.
        output = self._decode(
            input_ids=ids,
            past_key_values=cache,
            position_ids=torch.arange(past, past + ids.shape[1])[None],
            output_hidden_states=True,
        )
        assert output.last_hidden_state is not None
        assert output.hidden_states is not None
        is_answer = targets >= 0
        logits = self.model.language_model.lm_head(output.last_hidden_state[is_answer]).float()
        row_weights = torch.tensor([len(row.answer) ** -0.5 for _, row in group])
        weights = row_weights[:, None].expand_as(targets)[is_answer]
        mentions = self._mention_states(group, output.hidden_states[self.recipe.mention_layer])
        return self._token_losses(logits, targets[is_answer], bin_width), weights, mentions

    def _mention_states(self, group: list[tuple[int, Row]], hidden: Tensor) -> tuple[Tensor, MentionTargets]:
        """Hidden states [N, H] at the mentions of all rows, with what is to be read there."""
        found = [(i, mention) for i, (_, row) in enumerate(group) for mention in row.mentions]
        states = hidden[[i for i, _ in found], [mention.index for _, mention in found]]
        return states, mention_targets([mention for _, mention in found], self.model.grid)

    def _token_losses(self, logits: Tensor, targets: Tensor, bin_width: float) -> Tensor:
        """Cross entropy per token; coordinate tokens have Gaussian soft labels over the 101 numbers."""
        losses = F.cross_entropy(logits, targets, reduction="none")
        bins = self.bin_of[targets]
        is_coordinate = bins >= 0
        if self.opens is not None:
            is_coordinate &= F.pad(self.opens[targets[:-1]], (1, 0))
        if is_coordinate.any():
            log_probs = logits[is_coordinate].log_softmax(-1)[:, self.coordinate_ids]
            soft = -(soft_bins(bins[is_coordinate].float(), bin_width) * log_probs).sum(-1)
            losses = losses.masked_scatter(is_coordinate, soft)
        return losses


def _padded(group: list[tuple[int, Row]]) -> tuple[Tensor, Tensor]:
    """Input ids and next-token targets [rows, length]; -1 where nothing is predicted."""
    length = max(len(row.prompt) + len(row.answer) for _, row in group) - 1
    ids = torch.zeros(len(group), length, dtype=torch.long)
    targets = torch.full((len(group), length), -1)
    for i, (_, row) in enumerate(group):
        tokens = torch.tensor(row.prompt + row.answer)
        ids[i, : len(tokens) - 1] = tokens[:-1]
        targets[i, len(row.prompt) - 1 : len(tokens) - 1] = torch.tensor(row.answer)
    return ids, targets


def _by_task(losses: Tensor, tasks: list[tuple[str, int]]) -> dict[str, float]:
    """Mean token loss of every task; `tasks` holds task and number of answer tokens of each row, in order."""
    sums: dict[str, list[float]] = defaultdict(list)
    for (task, _), chunk in zip(tasks, losses.split([count for _, count in tasks]), strict=True):
        sums[task].append(chunk.mean().item())
    return {task: float(np.mean(values)) for task, values in sums.items()}
