"""Tiny MoE-LLaVA over Mistral: a dense model first, from MiniGPT-v2's tower and decoder, then experts grown from it."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import torch
from accelerate import PartialState  # type: ignore[import-untyped]

from models.families.moe_llava import prompt_format
from models.parts.eva_vision import EvaVisionTower
from models.parts.llava_vision import CutClip, MlpProjector, PatchTower
from models.parts.sparse_decoders import SparseDecoder, SparseMistralConfig, SparseMistralForCausalLM
from models.parts.sparse_moe import SparseLayers
from models.vision_language_model import VisionLanguageModel
from training.scenes.task_mixtures import LLAVA_MIXTURE
from training.scenes.world import IMAGE_SIZE
from training.stages.sparse_export import released_tensors
from training.stages.upcycling import stage_3_modules, upcycle_config, upcycle_folder
from training.tiny.clip_tower import clip_config, clip_from_eva
from training.tiny.export import write_folder_weights
from training.tiny.families.minigpt_v2 import LlamaFamily
from training.tiny.finished_models import load_finished
from training.tiny.language_batches import LanguageRecipe
from training.tiny.mention_supervision import TrainingHeads
from training.tiny.networks import (
    PATCH_GRID,
    PATCH_SIZE,
    ConnectorReadModel,
    DecoderShape,
    TinyModel,
    TowerShape,
    init_vocabulary,
)
from training.tiny.optimiser import LearningRates
from training.tiny.pretrain_tower import TowerRecipe, pretrain_tower
from training.tiny.tiny_trainer import read_state
from training.tiny.token_rows import RowFormat
from training.tiny.tokenizer import write_tokenizer_configs

TOWER = TowerShape()
DECODER = DecoderShape()

TOWER_RECIPE = TowerRecipe(
    steps=300,
    rates=LearningRates(muon=0.005, adamw=1.5e-3),
    tower_factor=0.5,
    set_weight=0.5,
    bin_widths=(1.5, 1.2),
    decay_from=0.2,
    seed=31,
)
DENSE = LanguageRecipe(
    steps=1350,
    mixture=LLAVA_MIXTURE,
    images=20,
    rows=9,
    rates=LearningRates(muon=0.009, adamw=1.8e-3),
    crowded=0.1,
    set_weight=1.0,
    tower_factor=0.06,
    patch_weight=0.3,
    curriculum=((0.05, 4), (0.1, 6)),
    bin_widths=(3.0, 1.5),
    decay_from=0.4,
    seed=32,
)
SPARSE = LanguageRecipe(
    steps=560,
    mixture=replace(LLAVA_MIXTURE, weights=LLAVA_MIXTURE.weights | {"caption": 0.9, "chat_caption": 2.1}),
    rows=8,
    rates=LearningRates(muon=0.006, adamw=1.5e-3),
    crowded=0.2,
    set_weight=1.0,
    tower_factor=0.0,
    patch_weight=0.0,
    balance_weight=0.05,  # at the released models' 0.01 one expert in twelve was first choice for 4 % of tokens
    curriculum=(),
    bin_widths=(1.5, 1.5),
    decay_from=0.2,
    seed=33,
)


class MoELlava(LlamaFamily):
    """The model with its tokenizer while it is trained; `work` holds the states of the stages."""

    def __init__(self, work: Path, tokenizer_path: Path) -> None:
        super().__init__(tokenizer_path)
        self.work = work
        self.tower_path = work / "moe_llava_tower.pt"
        self.dense_path, self.path = work / "moe_llava_dense.pt", work / "moe_llava.pt"
        self.rows = RowFormat(
            prompt_format=prompt_format("mistral"),
            tokenizer=self.tokenizer,
            answer_end="</s>",
        )

    def build(self) -> tuple[TinyModel, TrainingHeads]:
        """The dense networks, untrained."""
        clip = CutClip(clip_config(TOWER, image_size=IMAGE_SIZE, patch_size=PATCH_SIZE))
        clip.set_attn_implementation("eager")
        connector = MlpProjector(vision_width=TOWER.width, text_width=DECODER.width)
        model = ConnectorReadModel(
            PatchTower(clip, drops_first=True), connector, self._build_dense_decoder(), grid=PATCH_GRID
        )
        return model, TrainingHeads(TOWER.width, DECODER.width, model.num_patches)

    def _build_dense_decoder(self) -> SparseMistralForCausalLM:
        config = SparseMistralConfig(**DECODER.config_values(len(self.tokenizer)), sliding_window=None)
        config.sparse_layers = asdict(SparseLayers(indices=(), num_experts=()))
        decoder = SparseMistralForCausalLM(config)
        init_vocabulary(decoder.model.embed_tokens, decoder.lm_head, self.coordinate_ids)
        return decoder

    def train_dense(self, minigpt_v2: VisionLanguageModel) -> TinyModel:
        """The first two phases at once, from a finished MiniGPT-v2."""
        torch.manual_seed(DENSE.seed)
        model, heads = self.build()
        model.language_model.load_state_dict(minigpt_v2.language_model.state_dict())
        assert isinstance(model.vision_tower, PatchTower)
        assert isinstance(minigpt_v2.vision_tower, EvaVisionTower)
        start = clip_from_eva(minigpt_v2.vision_tower, patch_size=PATCH_SIZE)
        model.vision_tower.tower.load_state_dict(start)
        pretrain_tower(model, heads.dense, TOWER_RECIPE, self.tower_path)
        self.run(model, heads, self.rows, DENSE, self.dense_path)
        return model

    def train_sparse(self) -> TinyModel:
        """The third phase: experts in every second layer start as copies of the feed-forward that was there."""
        dense, heads = self.build()
        finished = read_state(self.dense_path)
        dense.load_state_dict(finished["model"])
        heads.load_state_dict(finished["heads"])
        folders = self.work / "moe_llava_dense", self.work / "moe_llava_upcycled"
        process = PartialState()
        if process.is_main_process:
            self.export(dense, folders[0])
            upcycle_folder(*folders, seed=SPARSE.seed)
        process.wait_for_everyone()
        model = sparse_model(folders[1])
        torch.manual_seed(SPARSE.seed)
        self.run(model, heads, self.rows, SPARSE, self.path)
        return model

    def export(self, model: TinyModel, folder: Path) -> None:
        """A model folder as released, dense or with experts: tower, projector and language model in one file, fp16."""
        decoder = model.language_model
        assert isinstance(decoder, SparseDecoder)
        write_folder_weights(released_tensors(model), folder)
        values = decoder.config.to_dict() | {
            "architectures": ["LlavaMistralForCausalLM"],
            "model_type": "llava_mistral",
            "dtype": "float16",
            "mm_image_tower": None,  # it is in the model's own file
            "mm_hidden_size": TOWER.width,
            "mm_vision_select_layer": -2,
            "image_aspect_ratio": "pad",
            "tokenizer_model_max_length": 2048,
        }
        for key in ("sparse_layers", "transformers_version"):
            values.pop(key, None)
        if indices := tuple(decoder.sparse_layers):
            values = upcycle_config(values, indices)
        (folder / "config.json").write_text(json.dumps(values, indent=2, sort_keys=True) + "\n")
        shutil.copyfile(self.tokenizer_path, folder / "tokenizer.model")
        write_tokenizer_configs(folder)


def finished_moe_llava(folder: Path) -> VisionLanguageModel:
    """An exported folder with experts; Mini-Gemini begins with one."""
    return load_finished("moe_llava", folder, vision_config=clip_sizes())


def sparse_model(folder: Path) -> TinyModel:
    """An exported folder as it was, with what the third phase trains."""
    loaded = finished_moe_llava(folder)
    loaded.requires_grad_(False).train()
    for module in stage_3_modules(loaded):
        module.requires_grad_(True)
    assert isinstance(loaded.vision_tower, PatchTower)
    loaded.vision_tower.tower.set_attn_implementation("eager")
    return ConnectorReadModel(loaded.vision_tower, loaded.connector, loaded.language_model, grid=PATCH_GRID)


def clip_sizes() -> dict[str, int | str]:
    """What a YAML has to say of the tower; the block that released towers have more is named but not there."""
    more: dict[str, int | str] = {
        "num_hidden_layers": TOWER.layers + 1,
        "image_size": IMAGE_SIZE,
        "hidden_act": "gelu",
    }
    return TOWER.config_values() | more
