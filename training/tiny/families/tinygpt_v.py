"""Tiny TinyGPT-V: stage 4 (boxes, task identifiers) with everything trained, then stage 3 with what its file holds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from accelerate import PartialState  # type: ignore[import-untyped]
from torch import Tensor, nn

from models.formats.minigpt import MINIGPT_V2, VICUNA_V0
from models.parts.connectors import QFormerConnector
from models.tokenizers.codegen import CodeGenTokenizer
from models.vision_language_model import VisionLanguageModel
from training.scenes.hard_scenes import SceneBlend
from training.scenes.task_mixtures import MINIGPT4_MIXTURE, MINIGPT_V2_REFINING_MIXTURE
from training.tiny import export
from training.tiny.byte_tokenizer import train_byte_tokenizer
from training.tiny.families.minigpt4 import QFORMER, QUERY_GRID
from training.tiny.language_batches import LanguageRecipe
from training.tiny.mention_supervision import TrainingHeads
from training.tiny.networks import (
    ConnectorReadModel,
    DecoderShape,
    TinyModel,
    TowerShape,
    build_qformer_connector,
    build_vision_tower,
)
from training.tiny.optimiser import LearningRates
from training.tiny.phi_decoder import (
    add_phi_lora,
    build_phi,
    export_phi_folder,
    is_stage_tensor,
    stage_tensors,
)
from training.tiny.tiny_trainer import read_state
from training.tiny.token_rows import RowFormat
from training.tiny.train_language import train_language

TOWER = TowerShape()
DECODER = DecoderShape(mlp_width=512)
INNER_WIDTH = 128  # between the two projections
END = "###"

STAGE_4 = LanguageRecipe(
    steps=2400,
    mixture=replace(
        MINIGPT_V2_REFINING_MIXTURE,
        weights=MINIGPT_V2_REFINING_MIXTURE.weights
        | {
            "identify": 1.8,
            "detection": 2.2,
            "absent_one": 0.8,
            "caption": 1.0,
            "chat_caption": 1.2,
            "relation": 3.6,
            "reading": 1.6,
            "background": 0.4,
        },
        emphasis=MINIGPT_V2_REFINING_MIXTURE.emphasis | {"relation": 1.6},
    ),
    rows=8,
    blend=SceneBlend(text=0.08, entangled=0.25),
    rates=LearningRates(muon=0.009, adamw=1.8e-3),
    crowded=0.3,
    # Tower and Q-Former see already. What comes back through an untrained decoder would only make them worse.
    tower_factor=0.08,
    connector_factor=0.4,
    patch_weight=0.3,
    set_weight=1.0,
    curriculum=((0.02, 3), (0.05, 5)),
    bin_widths=(4.0, 1.1),
    seed=43,
)
STAGE_3 = LanguageRecipe(
    steps=650,
    mixture=replace(
        MINIGPT4_MIXTURE,
        weights=MINIGPT4_MIXTURE.weights | {"caption": 0.9, "chat_caption": 1.6, "relation": 3.5, "reading": 1.7},
    ),
    images=20,
    rows=9,
    blend=SceneBlend(text=0.06, entangled=0.12),
    rates=LearningRates(muon=0.011, adamw=2.7e-3),
    crowded=0.3,
    curriculum=(),
    decay_from=0.2,
    bin_widths=(2.0, 1.5),
    seed=62,
)


class TinyGPTV:
    """The model with its tokenizer while it is trained; `work` holds the states of the stages."""

    def __init__(self, work: Path) -> None:
        self.tokenizer_folder = work / "phi_tokenizer"
        self.stage_4_path, self.stage_3_path = work / "tinygpt_v_4.pt", work / "tinygpt_v_3.pt"
        with PartialState().main_process_first():
            if not (self.tokenizer_folder / "tokenizer.json").is_file():
                train_byte_tokenizer(self.tokenizer_folder)
        self.tokenizer = CodeGenTokenizer(self.tokenizer_folder)
        self.number_ids = [self.tokenizer.token_id(str(number)) for number in range(101)]
        self.opening_ids = [i for i in range(len(self.tokenizer)) if self.tokenizer.decode([i]).endswith("<")]

    def build(self) -> tuple[TinyModel, TrainingHeads]:
        """The networks, untrained."""
        decoder = build_phi(
            DECODER,
            vocabulary_size=len(self.tokenizer),
            end_id=self.tokenizer.bos_token_id,
            number_ids=self.number_ids,
        )
        add_phi_lora(decoder)
        tower = build_vision_tower(TOWER, trains_ln_vision=True)
        connector = build_qformer_connector(TOWER, DECODER, QFORMER, inner_width=INNER_WIDTH)
        model = ConnectorReadModel(tower, connector, decoder, grid=QUERY_GRID)
        return model, TrainingHeads(QFORMER.width, DECODER.width, model.num_patches)

    def train_stage_4(self, minigpt4: VisionLanguageModel) -> TinyModel:
        """From a finished MiniGPT-4's tower and Q-Former; projections and decoder start from nothing."""
        torch.manual_seed(STAGE_4.seed)
        model, heads = self.build()
        model.vision_tower.load_state_dict(minigpt4.vision_tower.state_dict())
        assert isinstance(model.connector, QFormerConnector)
        assert isinstance(minigpt4.connector, QFormerConnector)
        model.connector.qformer.load_state_dict(minigpt4.connector.qformer.state_dict())
        model.connector.query_tokens.data.copy_(minigpt4.connector.query_tokens)
        self._run(model, heads, self._rows(stage=4), STAGE_4, self.stage_4_path)
        return model

    def train_stage_3(self) -> TinyModel:
        """From stage 4; only what a stage file holds is trained: LoRA, norms, projections."""
        torch.manual_seed(STAGE_3.seed)
        model, heads = self.build()
        finished = read_state(self.stage_4_path)
        model.load_state_dict(finished["model"])
        heads.load_state_dict(finished["heads"])
        for name, parameter in model.named_parameters():
            in_file = name.startswith("connector.projection.") or (
                name.startswith("language_model.") and is_stage_tensor(name)
            )
            parameter.requires_grad_(in_file)
        self._run(model, heads, self._rows(stage=3), STAGE_3, self.stage_3_path)
        return model

    def _rows(self, *, stage: int) -> RowFormat:
        prompt_format = MINIGPT_V2 if stage == 4 else VICUNA_V0
        return RowFormat(prompt_format=prompt_format, tokenizer=self.tokenizer, answer_end=END)

    def _run(
        self, model: TinyModel, heads: TrainingHeads, rows: RowFormat, recipe: LanguageRecipe, save_to: Path
    ) -> None:
        train_language(model, heads, rows, self.number_ids, recipe, save_to, opening_ids=self.opening_ids)

    def export(self, stage_4: TinyModel, stage_3: TinyModel, folder: Path) -> None:
        """Phi-2 folder, EVA and BLIP-2 files, and one file for each stage."""
        decoder, connector = stage_4.language_model, stage_4.connector
        assert isinstance(connector, QFormerConnector)
        export_phi_folder(decoder, folder / "phi-2")
        export.copy_files(self.tokenizer_folder, folder / "phi-2")
        export.export_vision_tower(stage_4.vision_tower, folder / "eva_vit_g.pth")
        export.export_qformer(connector, stage_4.vision_tower, folder / "blip2_pretrained_flant5xxl.pth")
        for number, model in ((4, stage_4), (3, stage_3)):
            export.write_stage_file(stage_file(model), folder / f"TinyGPT-V_for_Stage{number}.pth")


def stage_file(model: TinyModel) -> dict[str, Tensor]:
    """The tensors of a stage file."""
    assert isinstance(model.connector.projection, nn.Sequential)
    first, second = model.connector.projection
    projections = {
        f"{name}.{key}": tensor.detach().clone()
        for name, layer in (("llama_proj", first), ("llama_proj2", second))
        for key, tensor in layer.state_dict().items()
    }
    return stage_tensors(model.language_model) | projections
