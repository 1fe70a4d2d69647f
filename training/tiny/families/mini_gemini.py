"""Tiny Mini-Gemini: CLIP at low and ConvNeXt at full resolution, patch info mining, and MoE-LLaVA's decoder made dense.

CLIP begins as MoE-LLaVA's tower, but sees 48 of 144 px (the released models see 336 of 768), too few to read all. The
ConvNeXt first learns to see alone; then both together learn to give the features that MoE-LLaVA's tower has at full
resolution.
"""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import PartialState  # type: ignore[import-untyped]
from torch import Tensor
from transformers import ConvNextConfig, PreTrainedModel

from models.formats.llava import FORMATS
from models.parts.dual_vision import ClipPatches, ConvNextStages, DualVisionTower
from models.parts.patch_mining import PatchMiningConnector
from models.tokenizers.pieces import PieceTokenizer
from models.vision_language_model import VisionLanguageModel
from training.scenes.hard_scenes import SceneBlend
from training.scenes.task_mixtures import LLAVA_MIXTURE
from training.scenes.world import IMAGE_SIZE
from training.tiny.clip_tower import clip_config, with_patches_of
from training.tiny.export import write_folder_weights
from training.tiny.high_tower import fit_mining, pretrain_high_tower
from training.tiny.language_batches import LanguageRecipe
from training.tiny.mention_supervision import TrainingHeads
from training.tiny.networks import (
    PATCH_GRID,
    ConnectorReadModel,
    DecoderShape,
    TinyModel,
    TowerShape,
    build_decoder,
    part_of,
)
from training.tiny.optimiser import LearningRates
from training.tiny.pretrain_tower import TowerRecipe, pretrain_tower, tower_batches
from training.tiny.token_rows import RowFormat
from training.tiny.tokenizer import COORDINATES, write_tokenizer_configs
from training.tiny.train_language import train_language

LOW_SIZE, LOW_PATCH = 48, 4
LOW = TowerShape()
HIGH_WIDTHS, HIGH_DEPTHS = (48, 96, 144, 192), (1, 3, 2, 1)
DECODER = DecoderShape()

HIGH_RECIPE = TowerRecipe(
    steps=1050,
    batch=40,
    blend=SceneBlend(text=0.5),
    rates=LearningRates(muon=0.018, adamw=2.4e-3),
    connector_factor=0.5,
    bin_widths=(1.5, 1.5),
    decay_from=0.5,
    seed=71,
)
TOWERS_RECIPE = TowerRecipe(
    steps=400,
    batch=32,
    blend=SceneBlend(text=0.1),
    rates=LearningRates(muon=0.008, adamw=1e-3),
    tower_factor=0.08,
    high_tower_factor=0.5,
    connector_factor=0.4,
    patch_weight=0.4,
    teacher_weight=5.0,
    set_weight=0.4,
    bin_widths=(1.3, 1.3),
    decay_from=0.2,
    seed=91,
)
_FITTED_BATCHES = 32  # of `TOWERS_RECIPE`, from which mining begins
RECIPE = LanguageRecipe(
    steps=1200,
    mixture=replace(
        LLAVA_MIXTURE,
        weights=LLAVA_MIXTURE.weights
        | {"caption": 1.0, "chat_caption": 1.9, "relation": 1.4, "reading": 4.5, "background": 0.3},
    ),
    images=20,
    rows=9,
    blend=SceneBlend(text=0.3),
    rates=LearningRates(muon=0.007, adamw=1.5e-3),
    crowded=0.2,
    set_weight=1.0,
    tower_factor=0.06,
    high_tower_factor=0.5,
    connector_factor=0.5,
    patch_weight=0.8,
    curriculum=(),
    bin_widths=(1.5, 1.3),
    decay_from=0.15,
    seed=53,
)

_RELEASED_NAMES = (
    (r"^connector\.query\.", "model.vlm_uni_query_projector."),
    (r"^connector\.key\.", "model.vlm_uni_aux_projector."),
    (r"^connector\.value\.", "model.vlm_uni_val_projector."),
    (r"^connector\.projection\.", "model.mm_projector."),
    (r"^vision_tower\.low\.", "model.vision_tower.vision_tower.vision_model."),
    (r"^vision_tower\.high\.embeddings\.patch_embeddings\.", "model.vision_tower_aux.vision_stem.0."),
    (r"^vision_tower\.high\.embeddings\.layernorm\.", "model.vision_tower_aux.vision_stem.1."),
    (r"^vision_tower\.high\.encoder\.stages\.", "model.vision_tower_aux.vision_stages."),
    (r"(vision_stages\.\d+)\.downsampling_layer\.", r"\1.downsample."),
    (r"(vision_stages\.\d+\.)layers(\.\d+\.)layernorm\.", r"\1layers\2norm."),
    (r"(vision_stages\.\d+\.)layers\.", r"\1blocks."),
    (r"\.dwconv\.", ".conv_dw."),
    (r"\.pwconv([12])\.", r".mlp.fc\1."),
    (r"\.layer_scale_parameter$", ".gamma"),
    (r"^language_model\.", ""),
)


class MiniGemini:
    """The model with its tokenizer while it is trained; `work` holds the states of the stages."""

    def __init__(self, work: Path, tokenizer_path: Path) -> None:
        self.tokenizer_model = tokenizer_path  # of MiniGPT-v2
        self.high_path, self.towers_path = work / "mini_gemini_high.pt", work / "mini_gemini_towers.pt"
        self.path = work / "mini_gemini.pt"
        folder = work / "llama_tokenizer"
        with PartialState().main_process_first():
            folder.mkdir(exist_ok=True)
            shutil.copyfile(self.tokenizer_model, folder / "tokenizer.model")
            write_tokenizer_configs(folder, legacy=False)
        self.tokenizer = PieceTokenizer(folder)
        self.coordinate_ids = [self.tokenizer.encode(piece)[-1] for piece in COORDINATES]

    def build(self) -> tuple[TinyModel, TrainingHeads]:
        """The networks, untrained."""
        low = ClipPatches(clip_config(LOW, image_size=LOW_SIZE, patch_size=LOW_PATCH))
        low.set_attn_implementation("eager")  # with 145 tokens on a CPU thread it is faster than the fused kernel
        high = ConvNextStages(
            ConvNextConfig(
                hidden_sizes=list(HIGH_WIDTHS),
                depths=list(HIGH_DEPTHS),
                num_stages=len(HIGH_WIDTHS),
                hidden_act="gelu",
                layer_norm_eps=1e-6,
            )
        )
        tower = DualVisionTower(low=low, high=high, grid=1, has_global=False)
        connector = PatchMiningConnector(vision_width=LOW.width, aux_width=sum(HIGH_WIDTHS), text_width=DECODER.width)
        decoder = build_decoder(DECODER, vocabulary_size=len(self.tokenizer), coordinate_ids=self.coordinate_ids)
        model = ConnectorReadModel(tower, connector, decoder, grid=PATCH_GRID)
        return model, TrainingHeads(LOW.width, DECODER.width, model.num_patches)

    def train(self, moe_llava: VisionLanguageModel) -> TinyModel:
        """From the tower, projection and decoder of a finished MoE-LLaVA, which says what a patch should look like."""
        torch.manual_seed(HIGH_RECIPE.seed)
        model, heads = self.build()
        teacher = ConnectorReadModel(
            moe_llava.vision_tower, moe_llava.connector, moe_llava.language_model, grid=PATCH_GRID
        )
        model.language_model.load_state_dict(dense_state(moe_llava.language_model))
        model.connector.get_submodule("projection").load_state_dict(
            part_of(teacher.connector.state_dict(), "projection.")
        )
        if not self.towers_path.is_file():
            self._begin_seeing(model, teacher)
        pretrain_tower(model, heads.dense, TOWERS_RECIPE, self.towers_path, teacher=teacher)
        torch.manual_seed(RECIPE.seed)
        rows = RowFormat(prompt_format=FORMATS["vicuna_v1"], tokenizer=self.tokenizer, answer_end="</s>")
        train_language(model, heads, rows, self.coordinate_ids, RECIPE, self.path)
        return model

    def _begin_seeing(self, model: TinyModel, teacher: TinyModel) -> None:
        assert isinstance(model.vision_tower, DualVisionTower)
        pretrain_high_tower(model, HIGH_RECIPE, self.high_path, channels=sum(HIGH_WIDTHS), width=LOW.width)
        clip = part_of(teacher.vision_tower.state_dict(), "tower.")
        model.vision_tower.low.load_state_dict(with_patches_of(LOW_PATCH, clip))
        fit_mining(model, teacher, tower_batches(TOWERS_RECIPE, model.grid), _FITTED_BATCHES)

    def export(self, model: TinyModel, folder: Path) -> None:
        """A model folder as released: towers, connector and language model in one file, fp16."""
        write_folder_weights({released_name(name): tensor for name, tensor in model.state_dict().items()}, folder)
        config = model.language_model.config.to_dict() | {
            "architectures": ["MGMLlamaForCausalLM"],
            "model_type": "mgm",
            "dtype": "float16",
            "mm_vision_tower": None,  # the towers are in the model's own file
            "mm_vision_tower_aux": None,
            "mm_hidden_size": LOW.width,
            "mm_hidden_size_aux": sum(HIGH_WIDTHS),
            "mm_projector_type": "mlp2x_gelu",
            "mm_vision_select_layer": -2,
            "image_size_aux": IMAGE_SIZE,
            "image_grid": 1,
            "image_global": False,
            "image_aspect_ratio": "pad",
            "tokenizer_model_max_length": 2048,
        }
        (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
        shutil.copyfile(self.tokenizer_model, folder / "tokenizer.model")
        write_tokenizer_configs(folder, legacy=False)


def dense_state(sparse: PreTrainedModel) -> dict[str, Tensor]:
    """A decoder's state dict with the mean of its experts in their place: all of them began as one feed-forward."""
    dense: dict[str, Tensor] = {}
    for name, tensor in sparse.state_dict().items():
        layer, _, part = name.partition(".mlp.experts.")
        if part == "gate_up_proj":
            gate, up = tensor.mean(0).chunk(2)
            dense |= {f"{layer}.mlp.gate_proj.weight": gate, f"{layer}.mlp.up_proj.weight": up}
        elif part == "down_proj":
            dense[f"{layer}.mlp.down_proj.weight"] = tensor.mean(0)
        elif ".mlp.router." not in name:
            dense[name] = tensor
    return dense


def released_name(name: str) -> str:
    """The name that a tensor of `TinyModel` has in an MGM folder."""
    for pattern, replacement in _RELEASED_NAMES:
        name = re.sub(pattern, replacement, name)
    return name
