"""Tiny MiniGPT-v2, from nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from models.parts.connectors import PatchMergeProjector
from models.parts.minigpt_chat import MINIGPT_V2
from models.sentencepiece_tokenizer import SentencePieceTokenizer
from training.scenes.hard_scenes import SceneBlend
from training.tiny import export
from training.tiny.deeper import with_copied_layers
from training.tiny.dense import MergedHeads
from training.tiny.language_batches import LanguageRecipe
from training.tiny.mentions import TrainingHeads
from training.tiny.networks import (
    PATCH_GRID,
    DecoderShape,
    TinyModel,
    TokenReadModel,
    TowerShape,
    add_lora,
    build_decoder,
    build_merge_connector,
    build_vision_tower,
)
from training.tiny.optimiser import LearningRates
from training.tiny.pretrain_tower import TowerRecipe, pretrain_tower
from training.tiny.rows import (
    MINIGPT_V2_ENTANGLED_MIXTURE,
    MINIGPT_V2_LAST_MIXTURE,
    MINIGPT_V2_LATE_MIXTURE,
    MINIGPT_V2_MIXTURE,
    MINIGPT_V2_POLISHING_MIXTURE,
    MINIGPT_V2_REFINING_MIXTURE,
    RowFormat,
)
from training.tiny.tokenizer import COORDINATES, train_tokenizer
from training.tiny.train_language import train_language
from training.tiny.trainer import read_state

TOWER = TowerShape()
DECODER = DecoderShape()

TOWER_RECIPE = TowerRecipe(steps=1300)

_FIRST_LEG = LanguageRecipe(steps=2400, mixture=MINIGPT_V2_MIXTURE, late_mixture=MINIGPT_V2_LATE_MIXTURE)
MINIGPT_V2_LEGS = (_FIRST_LEG, replace(_FIRST_LEG, steps=3300, mixture=MINIGPT_V2_LAST_MIXTURE, late_mixture=None))
"""Legs go on with the same optimisers; a longer schedule raises the learning rates again before they fall."""

REFINEMENT = LanguageRecipe(
    steps=2000,
    mixture=MINIGPT_V2_REFINING_MIXTURE,
    tower_factor=0.5,
    dense_weight=0.2,
    set_weight=1.0,
    bin_widths=(2.0, 1.2),
    decay_from=0.4,
    curriculum=(),
    seed=5,
)
"""With fresh optimisers: patches and phrases also learn about sets of objects."""

TOKEN_RECIPE = TowerRecipe(
    steps=1800,
    rates=LearningRates(muon=0.01, adamw=1.5e-3),
    decay_from=0.3,
    set_weight=0.5,
    bin_widths=(1.6, 1.0),
    seed=51,
)
"""Without the decoder again, which is several times faster; this time it is image tokens that have to know all."""

POLISHING = LanguageRecipe(
    steps=1000,
    mixture=MINIGPT_V2_POLISHING_MIXTURE,
    images=36,
    rows=7,
    rates=LearningRates(muon=0.005, adamw=1.1e-3),
    crowded=0.5,
    tower_factor=0.15,
    dense_weight=0.3,
    set_weight=1.0,
    bin_widths=(1.3, 1.1),
    decay_from=0.15,
    curriculum=(),
    seed=10,
)
"""The decoder gets used to the better tokens, with more of what it still confuses: objects close to each other."""

COPIED_LAYERS = (1, 3)
"""Layers of the tower that get a copy behind them, once four layers see all that they can."""

DEEPER_RECIPE = TowerRecipe(
    steps=1300,
    batch=40,
    blend=SceneBlend(text=0.2, entangled=0.4),
    rates=LearningRates(muon=0.008, adamw=1.2e-3),
    decay_from=0.3,
    set_weight=0.5,
    bin_widths=(1.2, 1.0),
    seed=101,
)
ENTANGLED = replace(
    POLISHING,
    steps=1200,
    mixture=MINIGPT_V2_ENTANGLED_MIXTURE,
    images=28,
    rows=8,
    blend=SceneBlend(text=0.08, entangled=0.25, aligned=0.35, candidates=4),
    rates=LearningRates(muon=0.006, adamw=1.2e-3),
    crowded=0.5,
    tower_factor=0.2,
    connector_factor=0.4,
    dense_weight=0.5,
    bin_widths=(1.1, 1.0),
    decay_from=0.2,
    seed=121,
)
"""Polishing again with more of objects over each other, and in columns, whose order in an answer hangs on a pixel."""


class LlamaFamily:
    """What the families over the small Llama share: the tokenizer. `work` holds the states of the stages."""

    def __init__(self, work: Path) -> None:
        self.tokenizer_path = work / "tokenizer.model"
        if not self.tokenizer_path.is_file():
            train_tokenizer(self.tokenizer_path)
        self.tokenizer = SentencePieceTokenizer(self.tokenizer_path)
        # The id before the last is that of the dummy prefix.
        self.coordinate_ids = [self.tokenizer.encode(piece)[-1] for piece in COORDINATES]

    def build_decoder(self) -> LlamaForCausalLM:
        """An untrained decoder."""
        return build_decoder(DECODER, vocabulary_size=len(self.tokenizer), coordinate_ids=self.coordinate_ids)

    def run(
        self, model: TinyModel, heads: TrainingHeads, rows: RowFormat, legs: Sequence[LanguageRecipe], save_to: Path
    ) -> None:
        """See `train_language`."""
        train_language(model, heads, rows, self.coordinate_ids, legs, save_to)


class MiniGPTv2(LlamaFamily):
    """Tiny MiniGPT-v2: tower, language stage, refinement, image tokens, polishing, a deeper tower."""

    def __init__(self, work: Path) -> None:
        super().__init__(work)
        self.tower_path = work / "tower.pt"
        self.language_path, self.refined_path = work / "minigpt_v2_language.pt", work / "minigpt_v2_refined.pt"
        self.tokens_path, self.polished_path = work / "minigpt_v2_tokens.pt", work / "minigpt_v2_polished.pt"
        self.deeper_path, self.path = work / "minigpt_v2_deeper.pt", work / "minigpt_v2.pt"
        self.rows = RowFormat(prompt_format=MINIGPT_V2, tokenizer=self.tokenizer, answer_end="</s>")

    def build(self) -> tuple[TinyModel, TrainingHeads]:
        """The networks, untrained."""
        decoder = self.build_decoder()
        add_lora(decoder)
        tower = build_vision_tower(TOWER, trains_ln_vision=False)
        model = TinyModel(tower, build_merge_connector(TOWER, DECODER), decoder, grid=PATCH_GRID)
        return model, TrainingHeads(TOWER.width, DECODER.width, model.num_patches)

    def train(self) -> TinyModel:
        """All stages; what is finished in the work folder is not repeated."""
        torch.manual_seed(MINIGPT_V2_LEGS[0].seed)
        model, heads = self.build()
        pretrain_tower(model, heads.dense, TOWER_RECIPE, self.tower_path)
        self.run(model, heads, self.rows, MINIGPT_V2_LEGS, self.language_path)
        self.run(model, heads, self.rows, (REFINEMENT,), self.refined_path)
        model, heads = reading_tokens(model, heads)
        pretrain_tower(model, heads.dense, TOKEN_RECIPE, self.tokens_path)
        self.run(model, heads, self.rows, (POLISHING,), self.polished_path)
        model = with_deeper_tower(model)
        pretrain_tower(model, heads.dense, DEEPER_RECIPE, self.deeper_path)
        self.run(model, heads, self.rows, (ENTANGLED,), self.path)
        return model

    def polished(self) -> tuple[TinyModel, dict[str, Tensor]]:
        """What other families begin with: the model before its tower was made deeper, and its read-outs' state dict."""
        model, _ = self.build()
        state = read_state(self.polished_path)
        model.load_state_dict(state["model"])
        return model, {name: tensor for name, tensor in state["heads"].items() if ".unmerge." not in name}

    def export(self, model: TinyModel, folder: Path) -> None:
        """The three released files."""
        export.export_language_model(model.language_model, self.tokenizer_path, folder / "llama")
        export.export_vision_tower(model.vision_tower, folder / "eva_vit_g.pth")
        export.export_stage_checkpoint(model.connector, model.language_model, folder / "minigptv2_checkpoint.pth")


def reading_tokens(model: TinyModel, heads: TrainingHeads) -> tuple[TinyModel, TrainingHeads]:
    """The same networks with read-outs behind the connector, which begins by being taken back as far as it can be."""
    connector = model.connector
    assert isinstance(connector, PatchMergeProjector)
    merged = MergedHeads(TOWER.width, token_width=DECODER.width, merge=connector.merge)
    merged.load_state_dict(heads.dense.state_dict(), strict=False)
    with torch.no_grad():
        merged.unmerge.weight.copy_(torch.linalg.pinv(connector.projection.weight))
        merged.unmerge.bias.zero_()
    heads.dense = merged
    return TokenReadModel(model.vision_tower, connector, model.language_model, grid=model.grid), heads


def with_deeper_tower(model: TinyModel) -> TinyModel:
    """The same model with copies of some of its tower's layers, which add nothing yet."""
    shape = replace(TOWER, layers=TOWER.layers + len(COPIED_LAYERS))
    tower = build_vision_tower(shape, trains_ln_vision=False)
    tower.load_state_dict(with_copied_layers(model.vision_tower.state_dict(), COPIED_LAYERS))
    return TokenReadModel(tower, model.connector, model.language_model, grid=model.grid)
