"""Train the bundled tiny checkpoints from nothing: `python -m training.tiny.train_tiny [--family minigpt_v2|minigpt4]`.

tokenizer -> vision tower with dense labels -> MiniGPT-v2 -> MiniGPT-4 from MiniGPT-v2's tower and decoder. Every stage
leaves its state in the work folder; a stage that is finished there is not repeated, and a language stage that broke off
goes on.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from transformers import LlamaForCausalLM

from models.parts.connectors import QFormerConnector
from models.parts.minigpt_chat import MINIGPT_V2, VICUNA_V0
from models.sentencepiece_tokenizer import SentencePieceTokenizer
from training.tiny import export
from training.tiny.mentions import TrainingHeads
from training.tiny.networks import (
    PATCH_SIZE,
    DecoderShape,
    QFormerShape,
    TinyModel,
    TowerShape,
    add_lora,
    build_decoder,
    build_merge_connector,
    build_qformer_connector,
    build_vision_tower,
    merged_decoder_state,
    part_of,
)
from training.tiny.pretrain_tower import TowerRecipe, pretrain_tower
from training.tiny.rows import (
    MINIGPT4_MIXTURE,
    MINIGPT_V2_LAST_MIXTURE,
    MINIGPT_V2_LATE_MIXTURE,
    MINIGPT_V2_MIXTURE,
    MINIGPT_V2_REFINING_MIXTURE,
    RowFormat,
)
from training.tiny.tokenizer import COORDINATES, train_tokenizer
from training.tiny.train_language import LanguageRecipe, LanguageTrainer

TOWER = TowerShape()
DECODER = DecoderShape()
QFORMER = QFormerShape()

TOWER_RECIPE = TowerRecipe(steps=1300)

_FIRST_LEG = LanguageRecipe(steps=2400, mixture=MINIGPT_V2_MIXTURE, late_mixture=MINIGPT_V2_LATE_MIXTURE)
MINIGPT_V2_LEGS = (_FIRST_LEG, replace(_FIRST_LEG, steps=3300, mixture=MINIGPT_V2_LAST_MIXTURE, late_mixture=None))
"""Legs go on with the same optimisers; a longer schedule raises the learning rates again before they fall."""

_MINIGPT4 = LanguageRecipe(
    steps=450,
    mixture=MINIGPT4_MIXTURE,
    tower_factor=0.2,
    connector_factor=2.0,
    decoder_factor=0.6,
    curriculum=((0.05, 4),),
    seed=3,
)
MINIGPT4_LEGS = (_MINIGPT4, replace(_MINIGPT4, steps=1020))

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
"""The next step, which the bundled MiniGPT-v2 has not had: patches and phrases also learn about sets of objects, for
counting and detecting several of a kind."""


class Workshop:
    """The stages in order, their states in `folder`."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.tokenizer_path = folder / "tokenizer.model"
        self.tower_path = folder / "tower.pt"
        self.minigpt_v2_path = folder / "minigpt_v2.pt"
        self.minigpt4_path = folder / "minigpt4.pt"
        self.refined_path = folder / "minigpt_v2_refined.pt"
        if not self.tokenizer_path.is_file():
            train_tokenizer(self.tokenizer_path)
        self.tokenizer = SentencePieceTokenizer(self.tokenizer_path)
        # The id before the last is that of the dummy prefix.
        self.coordinate_ids = [self.tokenizer.encode(piece)[-1] for piece in COORDINATES]

    def train_minigpt_v2(self, legs: Sequence[LanguageRecipe] = MINIGPT_V2_LEGS) -> TinyModel:
        """Everything up to and with MiniGPT-v2."""
        if not self.tower_path.is_file():
            torch.manual_seed(TOWER_RECIPE.seed)
            model, heads = self._new_minigpt_v2()
            pretrain_tower(model, heads.dense, TOWER_RECIPE, self.tower_path)
        torch.manual_seed(legs[0].seed)
        model, heads = self._new_minigpt_v2()
        pretrained = torch.load(self.tower_path, weights_only=True)
        model.vision_tower.load_state_dict(part_of(pretrained["model"], "vision_tower."))
        heads.dense.load_state_dict(pretrained["heads"])
        rows = RowFormat(prompt_format=MINIGPT_V2, tokenizer=self.tokenizer, answer_end="</s>")
        self._train(model, heads, rows, legs, self.minigpt_v2_path)
        return model

    def refine_minigpt_v2(self, recipe: LanguageRecipe = REFINEMENT) -> TinyModel:
        """MiniGPT-v2 trained on with fresh optimisers and `REFINEMENT`'s losses."""
        torch.manual_seed(recipe.seed)
        model, heads = self._new_minigpt_v2()
        finished = torch.load(self.minigpt_v2_path, weights_only=True)
        model.load_state_dict(finished["model"])
        heads.load_state_dict(finished["heads"])
        rows = RowFormat(prompt_format=MINIGPT_V2, tokenizer=self.tokenizer, answer_end="</s>")
        self._train(model, heads, rows, (recipe,), self.refined_path)
        return model

    def train_minigpt4(self, legs: Sequence[LanguageRecipe] = MINIGPT4_LEGS) -> TinyModel:
        """MiniGPT-4 from the finished MiniGPT-v2: only the Q-Former starts from nothing."""
        torch.manual_seed(legs[0].seed)
        tower, decoder = build_vision_tower(TOWER, trains_ln_vision=True), self._decoder()
        model = TinyModel(tower, build_qformer_connector(TOWER, DECODER, QFORMER), decoder, patch_size=PATCH_SIZE)
        heads = TrainingHeads(TOWER.width, DECODER.width, model.num_patches)
        finished = torch.load(self.minigpt_v2_path, weights_only=True)
        heads.load_state_dict(finished["heads"])
        tower.load_state_dict(part_of(finished["model"], "vision_tower."))
        decoder.load_state_dict(merged_decoder_state(part_of(finished["model"], "language_model.")))
        rows = RowFormat(prompt_format=VICUNA_V0, tokenizer=self.tokenizer, answer_end="###")
        self._train(model, heads, rows, legs, self.minigpt4_path)
        return model

    def _new_minigpt_v2(self) -> tuple[TinyModel, TrainingHeads]:
        decoder = self._decoder()
        add_lora(decoder)
        tower = build_vision_tower(TOWER, trains_ln_vision=False)
        model = TinyModel(tower, build_merge_connector(TOWER, DECODER), decoder, patch_size=PATCH_SIZE)
        return model, TrainingHeads(TOWER.width, DECODER.width, model.num_patches)

    def _decoder(self) -> LlamaForCausalLM:
        return build_decoder(DECODER, vocabulary_size=len(self.tokenizer), coordinate_ids=self.coordinate_ids)

    def _train(
        self, model: TinyModel, heads: TrainingHeads, rows: RowFormat, legs: Sequence[LanguageRecipe], save_to: Path
    ) -> None:
        for leg in legs:
            trainer = LanguageTrainer(model, heads, rows, self.coordinate_ids, leg, save_to)
            if save_to.is_file():
                trainer.resume()
            trainer.run()

    def export_minigpt_v2(self, model: TinyModel, folder: Path) -> None:
        """The three released files of MiniGPT-v2."""
        export.export_language_model(model.language_model, self.tokenizer_path, folder / "llama")
        export.export_vision_tower(model.vision_tower, folder / "eva_vit_g.pth")
        export.export_stage_checkpoint(model.connector, model.language_model, folder / "minigptv2_checkpoint.pth")

    def export_minigpt4(self, model: TinyModel, folder: Path) -> None:
        """The four released files of MiniGPT-4 with Vicuna."""
        export.export_language_model(model.language_model, self.tokenizer_path, folder / "vicuna")
        export.export_vision_tower(model.vision_tower, folder / "eva_vit_g.pth")
        assert isinstance(model.connector, QFormerConnector)
        export.export_qformer(model.connector, model.vision_tower, folder / "blip2_pretrained_flant5xxl.pth")
        export.export_stage_checkpoint(model.connector, model.language_model, folder / "pretrained_minigpt4.pth")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m training.tiny.train_tiny", description=__doc__.splitlines()[0])
    parser.add_argument("--family", choices=("minigpt_v2", "minigpt4", "all"), default="all")
    parser.add_argument("--output", type=Path, default=Path("checkpoints"), help="where tiny_*/ are written")
    parser.add_argument("--work-dir", type=Path, default=Path(".training"), help="states of the stages")
    parser.add_argument("--threads", type=int, default=1, help="the models are small: more threads gain little")
    parser.add_argument("--refine", action="store_true", help="add the next step to MiniGPT-v2, see REFINEMENT")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(options.threads)
    workshop = Workshop(options.work_dir)
    model = workshop.train_minigpt_v2()
    if options.refine:
        model = workshop.refine_minigpt_v2()
    if options.family in ("minigpt_v2", "all"):
        workshop.export_minigpt_v2(model, options.output / "tiny_minigpt_v2")
    if options.family in ("minigpt4", "all"):
        workshop.export_minigpt4(workshop.train_minigpt4(), options.output / "tiny_minigpt4")
    return 0


if __name__ == "__main__":
    sys.exit(main())
