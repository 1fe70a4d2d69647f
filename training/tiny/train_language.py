"""Second stage: connector and decoder learn to answer, with the tower along at a lower rate."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer
from transformers.modeling_outputs import BaseModelOutputWithPast

from models.parts.sparse_decoders import SparseDecoder
from training.tiny.dense import NUM_BINS, soft_bins
from training.tiny.language_batches import LanguageBatch, LanguageRecipe, RowGroup, language_batches
from training.tiny.mentions import MentionTargets, TrainingHeads
from training.tiny.networks import TinyModel
from training.tiny.optimiser import MuonWithAdamW, build_optimiser
from training.tiny.pretrain_tower import tower_parts
from training.tiny.rows import RowFormat
from training.tiny.trainer import StepLoss, read_state, run_folder, run_steps, write_state

_LOG_EVERY = 25  # steps


def train_language(
    model: TinyModel,
    heads: TrainingHeads,
    row_format: RowFormat,
    coordinate_ids: list[int],
    legs: Sequence[LanguageRecipe],
    save_to: Path,
    *,
    opening_ids: list[int] | None = None,
) -> None:
    """Train model and read-outs through all legs and save the state dicts of both, {"model", "heads"}.

    Legs go on with the same optimiser, so each has more steps than the one before. A run that broke off is gone on
    with; of one that is finished the saved state is taken.
    """
    if not save_to.is_file():
        for leg in legs:
            stage = LanguageStage(model, heads, row_format.prefix(), coordinate_ids, leg, opening_ids=opening_ids)
            run_steps(
                stage,
                language_batches(leg, row_format, model.grid),
                stage.build_optimiser(),
                decay_from=leg.decay_from,
                folder=run_folder(save_to),
                log_every=_LOG_EVERY,
            )
        write_state({"model": model.state_dict(), "heads": heads.state_dict()}, save_to)
    finished = read_state(save_to)
    model.load_state_dict(finished["model"])
    heads.load_state_dict(finished["heads"])


class LanguageStage(nn.Module):
    """Model and read-outs with the loss of a `LanguageBatch`.

    In a vocabulary without pieces such as <7>, a number is a coordinate if one of `opening_ids` comes before it.
    """

    prefix: Tensor
    coordinate_ids: Tensor
    bin_of: Tensor  # of every id; -1 where it is no number
    opens: Tensor | None

    def __init__(
        self,
        model: TinyModel,
        heads: TrainingHeads,
        prefix: list[int],
        coordinate_ids: list[int],
        recipe: LanguageRecipe,
        *,
        opening_ids: list[int] | None = None,
    ) -> None:
        super().__init__()
        self.model, self.heads, self.recipe = model, heads, recipe
        bin_of = torch.full((model.language_model.config.vocab_size,), -1)
        bin_of[coordinate_ids] = torch.arange(NUM_BINS)
        opens = None if opening_ids is None else torch.isin(torch.arange(len(bin_of)), torch.tensor(opening_ids))
        for name, tensor in (
            ("prefix", torch.tensor(prefix)),
            ("coordinate_ids", torch.tensor(coordinate_ids)),
            ("bin_of", bin_of),
            ("opens", opens),
        ):
            self.register_buffer(name, tensor, persistent=False)
        self._balance: list[Tensor] = []  # losses of the step's runs, one per layer with experts

    def build_optimiser(self) -> MuonWithAdamW:
        """With the recipe's rates for each part."""
        model, heads, recipe = self.model, self.heads, self.recipe
        return build_optimiser(
            [
                *tower_parts(model.vision_tower, recipe.tower_factor, recipe.high_tower_factor),
                (heads.dense, recipe.tower_factor),
                (model.connector, recipe.connector_factor),
                (model.language_model, recipe.decoder_factor),
                (heads.mention, 1.0),
            ],
            recipe.rates,
        )

    def forward(self, batch: LanguageBatch) -> StepLoss:
        """The weighted sum of all losses; reports the mean token loss per task and what the read-outs get right."""
        recipe = self.recipe
        image_embeds, features = self.model.look(batch.pixel_values)
        dense, dense_report = self.heads.dense.loss(features, batch.dense, bin_width=1.5, set_weight=recipe.set_weight)
        self._balance.clear()
        keys_values = self.read_image(image_embeds)
        losses, hidden = zip(
            *(self.run_rows(group, keys_values, batch.bin_width) for group in batch.groups), strict=True
        )
        mention, mention_report = self.heads.mention.loss(
            torch.cat(hidden),
            MentionTargets.cat([group.mention_targets for group in batch.groups]),
            bin_width=2.0,
            set_weight=recipe.set_weight,
        )
        flat, weight = torch.cat(losses), torch.cat([group.weights for group in batch.groups])
        report = {key: dense_report[key] for key in ("bins_iou75", "name", "count", "alike")} | mention_report
        tasks = [task for group in batch.groups for task in group.tasks]
        report |= {f"loss_{task}": value for task, value in _by_task(flat.detach(), tasks).items()}
        answers = (flat * weight).sum() / weight.sum()
        loss = answers + recipe.dense_weight * dense + recipe.mention_weight * mention
        if self._balance:
            balance = torch.stack(self._balance).mean()
            report["balance"] = balance.item()
            loss = loss + recipe.balance_weight * balance
        return StepLoss(loss, report)

    def read_image(self, image_embeds: Tensor) -> list[tuple[Tensor, Tensor]]:
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

    def run_rows(
        self, group: RowGroup, keys_values: list[tuple[Tensor, Tensor]], bin_width: float
    ) -> tuple[Tensor, Tensor]:
        """Loss of every answer token [A], and the hidden states [M, H] at the mentions."""
        cache = DynamicCache(config=self.model.language_model.config)
        past = 0
        if group.images is not None:
            past = keys_values[0][0].shape[2]
            for layer, (keys, values) in enumerate(keys_values):
                cache.update(keys[group.images], values[group.images], layer)
        # Padding is on the right, where causality alone keeps it out of sight.
        output = self._decode(
            input_ids=group.ids,
            past_key_values=cache,
            position_ids=torch.arange(past, past + group.ids.shape[1], device=group.ids.device)[None],
            output_hidden_states=True,
        )
        assert output.last_hidden_state is not None
        assert output.hidden_states is not None
        is_answer = group.targets >= 0
        logits = self.model.language_model.lm_head(output.last_hidden_state[is_answer]).float()
        losses = self.token_losses(logits, group.targets[is_answer], bin_width)
        rows, indices = group.mentions
        return losses, output.hidden_states[self.recipe.mention_layer][rows, indices]

    def token_losses(self, logits: Tensor, targets: Tensor, bin_width: float) -> Tensor:
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


def _by_task(losses: Tensor, tasks: Sequence[tuple[str, int]]) -> dict[str, float]:
    """Mean token loss of every task; `tasks` holds task and number of answer tokens of each row, in order."""
    sums: dict[str, list[float]] = defaultdict(list)
    for (task, _), chunk in zip(tasks, losses.split([count for _, count in tasks]), strict=True):
        sums[task].append(chunk.mean().item())
    return {task: float(np.mean(values)) for task, values in sums.items()}
