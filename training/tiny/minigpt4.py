"""Tiny MiniGPT-4, from MiniGPT-v2's tower and decoder; its tower and Q-Former are TinyGPT-V's beginning as well."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from models.parts.connectors import QFormerConnector
from models.parts.minigpt_chat import VICUNA_V0
from training.scenes.hard_scenes import SceneBlend
from training.tiny import export
from training.tiny.language_batches import LanguageRecipe
from training.tiny.mentions import TrainingHeads
from training.tiny.minigpt import DECODER, TOWER, LlamaFamily
from training.tiny.networks import (
    NUM_QUERY_TOKENS,
    PATCH_GRID,
    ConnectorReadModel,
    QFormerShape,
    TinyModel,
    build_qformer_connector,
    build_vision_tower,
    merged_decoder_state,
)
from training.tiny.optimiser import LearningRates
from training.tiny.pretrain_tower import TowerRecipe, pretrain_tower
from training.tiny.rows import MINIGPT4_MIXTURE, RowFormat

QFORMER = QFormerShape()
QUERY_GRID = (8, 4)  # every query answers for one cell of the image while the Q-Former learns to see
assert QUERY_GRID[0] * QUERY_GRID[1] == NUM_QUERY_TOKENS

ALIGNMENT = LanguageRecipe(
    steps=1500,
    mixture=MINIGPT4_MIXTURE,
    tower_factor=0.2,
    connector_factor=2.0,
    decoder_factor=0.6,
    dense_weight=0.2,
    set_weight=1.0,
    curriculum=((0.02, 4),),
    seed=3,
)
"""The Q-Former learns what the decoder asks for, and no more."""

_FIRST_QUERIES = TowerRecipe(
    steps=800, tower_factor=0.15, set_weight=0.5, bin_widths=(4.0, 1.3), decay_from=0.3, seed=41
)
QUERY_RECIPES = (
    _FIRST_QUERIES,
    replace(
        _FIRST_QUERIES,
        steps=1300,
        batch=40,
        blend=SceneBlend(text=0.12, entangled=0.3),
        rates=LearningRates(muon=0.01, adamw=1.5e-3),
        tower_factor=0.5,
        bin_widths=(1.6, 1.0),
        seed=132,
    ),
)
"""Without the decoder: every query learns to see its own cell, then does so in scenes that are hard to see."""

MINIGPT4 = replace(
    ALIGNMENT,
    steps=650,
    mixture=replace(
        MINIGPT4_MIXTURE,
        weights=MINIGPT4_MIXTURE.weights | {"caption": 0.8, "chat_caption": 1.6, "count": 2.8, "relation": 1.8},
    ),
    images=20,
    rows=9,
    blend=SceneBlend(text=0.08, entangled=0.2, aligned=0.05),
    rates=LearningRates(muon=0.009, adamw=1.8e-3),
    crowded=0.35,
    tower_factor=0.08,
    connector_factor=0.3,
    decoder_factor=1.0,
    dense_weight=0.5,
    decay_from=0.25,
    bin_widths=(1.5, 1.2),
    curriculum=(),
    seed=71,
)
"""The decoder gets used to queries that see."""


class MiniGPT4(LlamaFamily):
    """Tiny MiniGPT-4 with Vicuna's format: alignment, queries, and the language stage again."""

    def __init__(self, work: Path) -> None:
        super().__init__(work)
        self.aligned_path, self.path = work / "minigpt4_aligned.pt", work / "minigpt4.pt"
        self.query_paths = (work / "minigpt4_queries.pt", work / "minigpt4_queries_hard.pt")
        self.rows = RowFormat(prompt_format=VICUNA_V0, tokenizer=self.tokenizer, answer_end="###")

    def build(self) -> tuple[TinyModel, TrainingHeads]:
        """The networks, untrained, with read-outs at the patches."""
        tower, decoder = build_vision_tower(TOWER, trains_ln_vision=True), self.build_decoder()
        model = TinyModel(tower, build_qformer_connector(TOWER, DECODER, QFORMER), decoder, grid=PATCH_GRID)
        return model, TrainingHeads(TOWER.width, DECODER.width, model.num_patches)

    def train(self, minigpt_v2: TinyModel, heads_state: dict[str, Tensor]) -> TinyModel:
        """From a finished MiniGPT-v2 and its read-outs; what is finished in the work folder is not repeated."""
        torch.manual_seed(ALIGNMENT.seed)
        model, heads = self.build()
        heads.load_state_dict(heads_state)
        model.vision_tower.load_state_dict(minigpt_v2.vision_tower.state_dict())
        model.language_model.load_state_dict(merged_decoder_state(minigpt_v2.language_model.state_dict()))
        self.run(model, heads, self.rows, (ALIGNMENT,), self.aligned_path)
        model, heads = reading_queries(model)
        for recipe, path in zip(QUERY_RECIPES, self.query_paths, strict=True):
            pretrain_tower(model, heads.dense, recipe, path)
        self.run(model, heads, self.rows, (MINIGPT4,), self.path)
        return model

    def export(self, model: TinyModel, folder: Path) -> None:
        """The four released files."""
        export.export_language_model(model.language_model, self.tokenizer_path, folder / "vicuna")
        export.export_vision_tower(model.vision_tower, folder / "eva_vit_g.pth")
        assert isinstance(model.connector, QFormerConnector)
        export.export_qformer(model.connector, model.vision_tower, folder / "blip2_pretrained_flant5xxl.pth")
        export.export_stage_checkpoint(model.connector, model.language_model, folder / "pretrained_minigpt4.pth")


def reading_queries(model: TinyModel) -> tuple[TinyModel, TrainingHeads]:
    """The same networks with new read-outs, at the Q-Former's queries."""
    seeing = ConnectorReadModel(model.vision_tower, model.connector, model.language_model, grid=QUERY_GRID)
    return seeing, TrainingHeads(QFORMER.width, DECODER.width, seeing.num_patches)
