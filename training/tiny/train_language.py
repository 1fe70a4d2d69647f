"""Second stage: connector and decoder learn to answer, with the tower along at a lower rate."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPast

from models.parts.sparse_decoders import SparseDecoder
from training.tiny.language_batches import LanguageBatch, LanguageRecipe, PackedRows, language_batches
from training.tiny.mention_supervision import TrainingHeads
from training.tiny.networks import TinyModel
from training.tiny.optimiser import MuonWithAdamW, build_optimiser
from training.tiny.packed_rows import PACKED_ROWS, Packing
from training.tiny.patch_supervision import NUM_BINS, soft_bins
from training.tiny.pretrain_tower import tower_parts
from training.tiny.tiny_trainer import StepLoss, read_state, run_folder, run_steps, write_state
from training.tiny.token_rows import RowFormat

_LOG_EVERY = 25  # steps


def train_language(
    model: TinyModel,
    heads: TrainingHeads,
    row_format: RowFormat,
    coordinate_ids: list[int],
    recipe: LanguageRecipe,
    save_to: Path,
    *,
    opening_ids: list[int] | None = None,
) -> None:
    """Train model and read-outs and save the state dicts of both, {"model", "heads"}.

    A run that broke off is resumed; the saved state of one that is finished is loaded.
    """
    if not save_to.is_file():
        stage = LanguageStage(model, heads, row_format.prefix(), coordinate_ids, recipe, opening_ids=opening_ids)
        run_steps(
            stage,
            language_batches(recipe, row_format, model.grid),
            stage.build_optimiser(),
            decay_from=recipe.decay_from,
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
        model.language_model.set_attn_implementation(PACKED_ROWS)

    def build_optimiser(self) -> MuonWithAdamW:
        """With the recipe's rates for each part."""
        model, heads, recipe = self.model, self.heads, self.recipe
        return build_optimiser(
            [
                *tower_parts(model.vision_tower, recipe.tower_factor, recipe.high_tower_factor),
                (heads.dense, recipe.tower_factor),
                (model.connector, recipe.connector_factor),
                (model.language_model, 1.0),
                (heads.mention, 1.0),
            ],
            recipe.rates,
        )

    def forward(self, batch: LanguageBatch) -> StepLoss:
        """The weighted sum of all losses; reports the mean token loss per task and what the read-outs get right."""
        recipe, rows = self.recipe, batch.rows
        image_embeds, features = self.model.look(batch.pixel_values)
        patches, patch_report = self.heads.dense.loss(
            features, batch.patches, bin_width=1.5, set_weight=recipe.set_weight
        )
        last, middle = self.read(image_embeds, rows)
        is_answer = rows.targets >= 0
        logits = self.model.language_model.lm_head(last[is_answer]).float()
        spared = (rows.unseen >= 0).nonzero().squeeze(1)
        logits = logits.index_put((spared, rows.unseen[spared]), logits.new_tensor(-math.inf))
        losses = self.token_losses(logits, rows.targets[is_answer], batch.bin_width)
        mention, mention_report = self.heads.mention.loss(
            middle[rows.mentions], rows.mention_targets, bin_width=2.0, set_weight=recipe.set_weight
        )
        report = {key: patch_report[key] for key in ("bins_iou75", "name", "count", "alike")} | mention_report
        report |= {f"loss_{task}": value for task, value in _by_task(losses.detach(), rows.tasks).items()}
        answers = (losses * rows.weights).sum() / rows.weights.sum()
        loss = answers + recipe.patch_weight * patches + recipe.mention_weight * mention
        balances = self._balances()
        if balances:
            balance = torch.stack(balances).mean()
            report["balance"] = balance.item()
            loss = loss + recipe.balance_weight * balance
        return StepLoss(loss, report)

    def read(self, image_embeds: Tensor, rows: PackedRows) -> tuple[Tensor, Tensor]:
        """Run the decoder over image tokens [B, P, H] and rows: their hidden states, last and middle, [T, H] each.

        Every scene is read once, whatever the number of its rows. Padding is on the right of a row, where causality
        alone keeps it out of sight.
        """
        embed = self.model.language_model.get_input_embeddings()
        prefix = embed(self.prefix).expand(len(image_embeds), -1, -1)
        images = torch.cat((prefix, image_embeds), dim=1)
        packing = Packing(num_images=len(images), image_length=images.shape[1], blocks=rows.blocks)
        output: BaseModelOutputWithPast = self.model.language_model.model(
            inputs_embeds=torch.cat((images.flatten(0, 1), embed(rows.ids)))[None],
            position_ids=packing.positions(rows.ids.device)[None],
            use_cache=False,
            output_hidden_states=True,
            packing=packing,
        )
        assert output.last_hidden_state is not None
        assert output.hidden_states is not None
        read = packing.num_images * packing.image_length
        return output.last_hidden_state[0, read:], output.hidden_states[self.recipe.mention_layer][0, read:]

    def _balances(self) -> list[Tensor]:
        """How unequally busy the experts of each sparse layer were."""
        decoder = self.model.language_model
        if not isinstance(decoder, SparseDecoder):
            return []
        found = [layer.balance_loss for layer in decoder.sparse_layers.values()]
        return [loss for loss in found if loss is not None]

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
