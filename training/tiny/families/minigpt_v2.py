"""Tiny MiniGPT-v2, from nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from accelerate import PartialState  # type: ignore[import-untyped]
from transformers import LlamaForCausalLM

from models.formats.minigpt import MINIGPT_V2
from models.parts.connectors import PatchMergeProjector
from models.tokenizers.sentencepiece import SentencePieceTokenizer
from models.vision_language_model import VisionLanguageModel
from training.scenes.hard_scenes import SceneBlend
from training.scenes.task_mixtures import MINIGPT_V2_ENTANGLED_MIXTURE, MINIGPT_V2_LAST_MIXTURE, MINIGPT_V2_MIXTURE
from training.tiny import export
from training.tiny.finished_models import load_finished
from training.tiny.language_batches import LanguageRecipe
from training.tiny.mention_supervision import TrainingHeads
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
from training.tiny.patch_supervision import MergedPatchHeads
from training.tiny.pretrain_tower import TowerRecipe, pretrain_tower
from training.tiny.token_rows import RowFormat
from training.tiny.tokenizer import COORDINATES, train_tokenizer
from training.tiny.train_language import train_language

TOWER = TowerShape()
DECODER = DecoderShape()
LANGUAGE_MODEL = "llama"  # folder of the released files

_TOWER = TowerRecipe(steps=1200, set_weight=0.5)

# Without the decoder still, which is several times faster: now the image tokens have to know all that patches know.
_TOKENS = TowerRecipe(
    steps=1100,
    rates=LearningRates(muon=0.012, adamw=1.8e-3),
    decay_from=0.4,
    set_weight=0.5,
    bin_widths=(2.5, 1.2),
    seed=51,
)

# The decoder learns to answer from tokens that know. Patches and phrases also learn about sets of objects.
_LANGUAGE = LanguageRecipe(
    steps=2600,
    mixture=MINIGPT_V2_MIXTURE,
    late_mixture=MINIGPT_V2_LAST_MIXTURE,
    late_from=0.6,
    patch_weight=0.2,
    set_weight=1.0,
    bin_widths=(6.0, 1.2),
)

# Scenes that are hard to see, then harder ones, without the decoder: names of small covered objects are learnt last,
# and here in a fifth of the time that they take with it.
_HARD_TOKENS = TowerRecipe(
    steps=1300,
    batch=40,
    blend=SceneBlend(text=0.2, entangled=0.4, aligned=0.1),
    rates=LearningRates(muon=0.009, adamw=1.3e-3),
    decay_from=0.3,
    set_weight=0.5,
    bin_widths=(1.2, 1.0),
    seed=101,
)
_HARDER_TOKENS = replace(
    _HARD_TOKENS,
    steps=3000,
    blend=SceneBlend(text=0.2, entangled=0.5, aligned=0.05, candidates=3),
    rates=LearningRates(muon=0.01, adamw=1.4e-3),
    decay_from=0.2,
    seed=111,
)

# With it: objects near each other, over each other and in columns, whose order in an answer hangs on a pixel.
_ENTANGLED = LanguageRecipe(
    steps=1900,
    mixture=MINIGPT_V2_ENTANGLED_MIXTURE,
    images=28,
    rows=8,
    blend=SceneBlend(text=0.08, entangled=0.25, aligned=0.35, candidates=4),
    rates=LearningRates(muon=0.006, adamw=1.2e-3),
    crowded=0.5,
    tower_factor=0.2,
    connector_factor=0.4,
    patch_weight=0.5,
    set_weight=1.0,
    bin_widths=(1.2, 1.0),
    decay_from=0.2,
    curriculum=(),
    seed=121,
)

# Once more, with more scenes of fewer questions: tower and decoder learn names together.
_NAMES = replace(
    _ENTANGLED,
    steps=1700,
    mixture=replace(
        MINIGPT_V2_ENTANGLED_MIXTURE,
        weights=MINIGPT_V2_ENTANGLED_MIXTURE.weights | {"identify": 4.0, "identify_covered": 5.0, "reading": 0.8},
    ),
    images=36,
    rows=6,
    blend=SceneBlend(text=0.12, entangled=0.3, aligned=0.25, candidates=4),
    tower_factor=0.3,
    patch_weight=1.0,
    seed=161,
)

# What it still calls wrongly lies over or under something of its own colour.
_ALIKE = replace(_NAMES, blend=SceneBlend(text=0.12, entangled=0.45, alike=0.6, aligned=0.15, candidates=4), seed=171)

# The decoder alone. "[detection] red circle" had a box in every scene: only what was named in plural had been absent.
_ABSENT = replace(
    _ENTANGLED,
    steps=500,
    mixture=replace(
        MINIGPT_V2_ENTANGLED_MIXTURE,
        weights=MINIGPT_V2_ENTANGLED_MIXTURE.weights | {"absent": 1.0, "absent_one": 3.0},
    ),
    blend=SceneBlend(text=0.08, entangled=0.25, alike=0.6, aligned=0.25, candidates=4),
    rates=LearningRates(muon=0.003, adamw=6e-4),
    tower_factor=0.0,
    connector_factor=0.0,
    patch_weight=0.0,
    seed=181,
)

# A last stage: the same mixture, mostly [identify]. No other family begins with its weights, so it may be trained last.
REFINED = replace(
    _ALIKE,
    mixture=replace(
        MINIGPT_V2_ENTANGLED_MIXTURE,
        weights=MINIGPT_V2_ENTANGLED_MIXTURE.weights
        | {"identify": 7.0, "identify_covered": 9.0, "reading": 0.8, "absent_one": 1.2},
    ),
    seed=191,
)

STAGES: dict[str, TowerRecipe | LanguageRecipe] = {
    "tower": _TOWER,
    "tokens": _TOKENS,
    "language": _LANGUAGE,
    "hard_tokens": _HARD_TOKENS,
    "harder_tokens": _HARDER_TOKENS,
    "entangled": _ENTANGLED,
    "more_tokens": replace(_HARDER_TOKENS, steps=4000, rates=LearningRates(muon=0.008, adamw=1.1e-3), seed=141),
    "more_entangled": replace(_ENTANGLED, steps=1100, rates=LearningRates(muon=0.005, adamw=1e-3), seed=151),
    "names": _NAMES,
    "alike": _ALIKE,
    "absent": _ABSENT,
}
"""In their order, by the name of the file that holds a stage's state."""


class LlamaFamily:
    """What the families over the small Llama share: MiniGPT-v2's tokenizer."""

    def __init__(self, tokenizer_path: Path) -> None:
        self.tokenizer_path = tokenizer_path
        self.tokenizer = SentencePieceTokenizer(tokenizer_path)
        # The id before the last is that of the dummy prefix.
        self.coordinate_ids = [self.tokenizer.encode(piece)[-1] for piece in COORDINATES]

    def build_decoder(self) -> LlamaForCausalLM:
        """An untrained decoder."""
        return build_decoder(DECODER, vocabulary_size=len(self.tokenizer), coordinate_ids=self.coordinate_ids)

    def run(
        self, model: TinyModel, heads: TrainingHeads, rows: RowFormat, recipe: LanguageRecipe, save_to: Path
    ) -> None:
        """See `train_language`."""
        train_language(model, heads, rows, self.coordinate_ids, recipe, save_to)


class MiniGPTv2(LlamaFamily):
    """Tiny MiniGPT-v2: tower, image tokens, language, and by turns on hard scenes; `work` holds the stages' states."""

    def __init__(self, work: Path) -> None:
        tokenizer_path = work / "tokenizer.model"
        with PartialState().main_process_first():
            if not tokenizer_path.is_file():
                train_tokenizer(tokenizer_path)
        super().__init__(tokenizer_path)
        self.work = work
        self.rows = RowFormat(prompt_format=MINIGPT_V2, tokenizer=self.tokenizer, answer_end="</s>")

    def build(self) -> tuple[TinyModel, TrainingHeads]:
        """The networks, untrained."""
        decoder = self.build_decoder()
        add_lora(decoder)
        tower = build_vision_tower(TOWER, trains_ln_vision=False)
        model = TinyModel(tower, build_merge_connector(TOWER, DECODER), decoder, grid=PATCH_GRID)
        return model, TrainingHeads(TOWER.width, DECODER.width, model.num_patches)

    def train(self) -> TinyModel:
        """Train all stages but the last, whose weights other families start from; those in the work folder are read."""
        return self._train()[0]

    def refine(self) -> TinyModel:
        """Train all stages, the last one included."""
        model, heads = self._train()
        self.run(model, heads, self.rows, REFINED, self.work / "minigpt_v2_refined.pt")
        return model

    def _train(self) -> tuple[TinyModel, TrainingHeads]:
        torch.manual_seed(_LANGUAGE.seed)
        model, heads = self.build()
        for name, recipe in STAGES.items():
            path = self.work / f"minigpt_v2_{name}.pt"
            if isinstance(recipe, LanguageRecipe):
                self.run(model, heads, self.rows, recipe, path)
            else:
                pretrain_tower(model, heads.dense, recipe, path)
            if name == "tower":
                model, heads = reading_tokens(model, heads)
        return model, heads

    def export(self, model: TinyModel, folder: Path) -> None:
        """The three released files."""
        export.export_language_model(model.language_model, self.tokenizer_path, folder / LANGUAGE_MODEL)
        export.export_vision_tower(model.vision_tower, folder / "eva_vit_g.pth")
        export.export_stage_checkpoint(model.connector, model.language_model, folder / "minigptv2_checkpoint.pth")


def finished_tokenizer(folder: Path) -> Path:
    """The tokenizer in its released files."""
    return folder / LANGUAGE_MODEL / "tokenizer.model"


def finished_minigpt_v2(folder: Path) -> VisionLanguageModel:
    """What other families begin with, from its released files."""
    return load_finished("minigpt_v2", folder, vision_config=TOWER.config_values())


def reading_tokens(model: TinyModel, heads: TrainingHeads) -> tuple[TinyModel, TrainingHeads]:
    """The same networks with read-outs behind the connector, which begins by being taken back as far as it can be."""
    connector = model.connector
    assert isinstance(connector, PatchMergeProjector)
    merged = MergedPatchHeads(TOWER.width, token_width=DECODER.width, merge=connector.merge)
    merged.load_state_dict(heads.dense.state_dict(), strict=False)
    with torch.no_grad():
        merged.unmerge.weight.copy_(torch.linalg.pinv(connector.projection.weight))
        merged.unmerge.bias.zero_()
    heads.dense = merged
    return TokenReadModel(model.vision_tower, connector, model.language_model, grid=model.grid), heads
