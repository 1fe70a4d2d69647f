"""Tiny models smaller still, and stages of them that are about to begin."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]
from torch import nn

from models.formats.minigpt import MINIGPT_V2
from models.tokenizers.sentencepiece import SentencePieceTokenizer
from tests.paths import ROOT
from training.scenes.task_mixtures import MINIGPT_V2_MIXTURE
from training.tiny.language_batches import LanguageRecipe, language_batches
from training.tiny.mention_supervision import TrainingHeads
from training.tiny.networks import (
    PATCH_GRID,
    DecoderShape,
    QFormerShape,
    TinyModel,
    TowerShape,
    add_lora,
    build_decoder,
    build_merge_connector,
    build_qformer_connector,
    build_vision_tower,
)
from training.tiny.optimiser import MuonWithAdamW, build_optimiser
from training.tiny.patch_supervision import PatchHeads
from training.tiny.pretrain_tower import TowerRecipe, TowerStage, tower_batches
from training.tiny.tiny_trainer import SceneBatches, run_steps
from training.tiny.token_rows import RowFormat
from training.tiny.tokenizer import COORDINATES
from training.tiny.train_language import LanguageStage

TOKENIZER = ROOT / "checkpoints" / "tiny_minigpt_v2" / "llama" / "tokenizer.model"
TOWER = TowerShape(width=32, layers=2, heads=2, mlp_width=64)
DECODER = DecoderShape(width=32, layers=3, heads=2, mlp_width=64)
QFORMER = QFormerShape(width=32, layers=2, heads=2, mlp_width=64)


def tiny_model(tokenizer: SentencePieceTokenizer, *, qformer: bool = False) -> TinyModel:
    torch.manual_seed(0)
    ids = [tokenizer.encode(piece)[-1] for piece in COORDINATES]
    decoder = build_decoder(DECODER, vocabulary_size=len(tokenizer), coordinate_ids=ids)
    if not qformer:
        add_lora(decoder)
        for name, parameter in decoder.named_parameters():
            if name.endswith("lora_b"):
                nn.init.normal_(parameter, std=0.1)
    tower = build_vision_tower(TOWER, trains_ln_vision=qformer)
    connector = build_qformer_connector(TOWER, DECODER, QFORMER) if qformer else build_merge_connector(TOWER, DECODER)
    return TinyModel(tower, connector, decoder, grid=PATCH_GRID).eval()


RECIPE = LanguageRecipe(steps=1, mixture=MINIGPT_V2_MIXTURE, images=2, rows=3, mention_layer=2)


def rows_of(tokenizer: SentencePieceTokenizer) -> RowFormat:
    return RowFormat(prompt_format=MINIGPT_V2, tokenizer=tokenizer, answer_end="</s>")


def stage_of(model: TinyModel, tokenizer: SentencePieceTokenizer, recipe: LanguageRecipe = RECIPE) -> LanguageStage:
    ids = [tokenizer.encode(piece)[-1] for piece in COORDINATES]
    heads = TrainingHeads(TOWER.width, DECODER.width, model.num_patches)
    return LanguageStage(model, heads, rows_of(tokenizer).prefix(), ids, recipe)


STEPS = 6
TOWER_RECIPE = TowerRecipe(steps=STEPS, batch=4, teacher_weight=1.0, set_weight=0.5)
LANGUAGE_RECIPE = replace(RECIPE, steps=STEPS)


@dataclass
class Case:
    """A stage that is about to begin."""

    stage: nn.Module
    batches: SceneBatches
    optimiser: MuonWithAdamW
    decay_from: float

    def run(self, folder: Path) -> None:
        run_steps(self.stage, self.batches, self.optimiser, decay_from=self.decay_from, folder=folder, log_every=1)


def seeing(tokenizer: SentencePieceTokenizer) -> Case:
    model, teacher = tiny_model(tokenizer), tiny_model(tokenizer)
    torch.manual_seed(1)
    heads = PatchHeads(32)
    stage = TowerStage(model, heads, TOWER_RECIPE, teacher)
    parts = [(model.vision_tower, 1.0), (model.connector, 1.0), (heads, 0.5)]
    optimiser = build_optimiser(parts, TOWER_RECIPE.rates)
    return Case(stage, tower_batches(TOWER_RECIPE, PATCH_GRID), optimiser, TOWER_RECIPE.decay_from)


def answering(tokenizer: SentencePieceTokenizer, steps: int = STEPS) -> Case:
    model = tiny_model(tokenizer)
    torch.manual_seed(1)
    recipe = replace(LANGUAGE_RECIPE, steps=steps)
    stage = stage_of(model, tokenizer, recipe)
    return Case(
        stage, language_batches(recipe, rows_of(tokenizer), PATCH_GRID), stage.build_optimiser(), recipe.decay_from
    )


def shown(folder: Path, tag: str = "train/loss") -> list[tuple[int, float]]:
    """Steps and values as TensorBoard has them, by step.

    It reads files of the same second in the order of their names, where a process's tenth comes before its ninth.
    """
    events = EventAccumulator(str(folder / "logs"))
    events.Reload()
    return sorted((event.step, event.value) for event in events.Scalars(tag))
