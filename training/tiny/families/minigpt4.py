"""Tiny MiniGPT-4, from MiniGPT-v2's tower and decoder; its tower and Q-Former are TinyGPT-V's beginning as well."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from models.formats.minigpt import VICUNA_V0
from models.parts.connectors import QFormerConnector
from models.vision_language_model import VisionLanguageModel
from training.scenes.hard_scenes import SceneBlend
from training.scenes.task_mixtures import MINIGPT4_MIXTURE
from training.tiny import export
from training.tiny.families.minigpt_v2 import DECODER, TOWER, LlamaFamily
from training.tiny.finished_models import load_finished
from training.tiny.language_batches import LanguageRecipe
from training.tiny.mention_supervision import TrainingHeads
from training.tiny.networks import (
    NUM_QUERY_TOKENS,
    ConnectorReadModel,
    QFormerShape,
    TinyModel,
    build_qformer_connector,
    build_vision_tower,
)
from training.tiny.optimiser import LearningRates
from training.tiny.pretrain_tower import TowerRecipe, pretrain_tower
from training.tiny.token_rows import RowFormat

QFORMER = QFormerShape()
QUERY_GRID = (8, 4)  # every query answers for one cell of the image while the Q-Former learns to see
assert QUERY_GRID[0] * QUERY_GRID[1] == NUM_QUERY_TOKENS

_FIRST_QUERIES = TowerRecipe(
    steps=1200, tower_factor=0.15, set_weight=0.5, bin_widths=(4.0, 1.3), decay_from=0.3, seed=41
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

MINIGPT4 = LanguageRecipe(
    steps=1500,
    mixture=replace(
        MINIGPT4_MIXTURE,
        weights=MINIGPT4_MIXTURE.weights | {"caption": 0.8, "chat_caption": 1.6, "count": 2.8, "relation": 1.8},
    ),
    images=20,
    rows=9,
    blend=SceneBlend(text=0.08, entangled=0.2, aligned=0.05),
    rates=LearningRates(muon=0.009, adamw=1.8e-3),
    crowded=0.3,
    tower_factor=0.08,
    connector_factor=0.5,
    patch_weight=0.5,
    set_weight=1.0,
    decay_from=0.35,
    bin_widths=(2.0, 1.2),
    curriculum=((0.03, 4),),
    seed=71,
)
"""The decoder learns to read queries that see."""


class MiniGPT4(LlamaFamily):
    """Tiny MiniGPT-4 with Vicuna's format: queries, then the language stage."""

    def __init__(self, work: Path, tokenizer_path: Path) -> None:
        super().__init__(tokenizer_path)
        self.path = work / "minigpt4.pt"
        self.query_paths = (work / "minigpt4_queries.pt", work / "minigpt4_queries_hard.pt")
        self.rows = RowFormat(prompt_format=VICUNA_V0, tokenizer=self.tokenizer, answer_end="###")

    def build(self) -> tuple[TinyModel, TrainingHeads]:
        """The networks, untrained, with read-outs at the Q-Former's queries."""
        tower, connector = (
            build_vision_tower(TOWER, trains_ln_vision=True),
            build_qformer_connector(TOWER, DECODER, QFORMER),
        )
        model = ConnectorReadModel(tower, connector, self.build_decoder(), grid=QUERY_GRID)
        return model, TrainingHeads(QFORMER.width, DECODER.width, model.num_patches)

    def train(self, minigpt_v2: VisionLanguageModel) -> TinyModel:
        """From a finished MiniGPT-v2; what is finished in the work folder is not repeated."""
        torch.manual_seed(MINIGPT4.seed)
        model, heads = self.build()
        model.vision_tower.load_state_dict(minigpt_v2.vision_tower.state_dict())
        model.language_model.load_state_dict(minigpt_v2.language_model.state_dict())
        for recipe, path in zip(QUERY_RECIPES, self.query_paths, strict=True):
            pretrain_tower(model, heads.dense, recipe, path)
        self.run(model, heads, self.rows, MINIGPT4, self.path)
        return model

    def export(self, model: TinyModel, folder: Path) -> None:
        """The four released files."""
        export.export_language_model(model.language_model, self.tokenizer_path, folder / "vicuna")
        export.export_vision_tower(model.vision_tower, folder / "eva_vit_g.pth")
        assert isinstance(model.connector, QFormerConnector)
        export.export_qformer(model.connector, model.vision_tower, folder / "blip2_pretrained_flant5xxl.pth")
        export.export_stage_checkpoint(model.connector, model.language_model, folder / "pretrained_minigpt4.pth")


def finished_minigpt4(folder: Path) -> VisionLanguageModel:
    """What TinyGPT-V begins with, from its released files."""
    return load_finished(
        "minigpt4", folder, vision_config=TOWER.config_values(), qformer_config=QFORMER.config_values()
    )
