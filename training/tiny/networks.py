"""The tiny networks: the project's own modules with small configs, so that export is a renaming."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Blip2QFormerConfig, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from models.parts.connectors import MERGED_PATCHES, PatchMergeProjector, QFormerConnector, qformer_config
from models.parts.eva_vision import EvaVisionTower, eva_vision_config
from training.scenes.world import IMAGE_SIZE
from training.tiny.patch_supervision import Grid

PATCH_SIZE = 12
PATCH_GRID = (IMAGE_SIZE // PATCH_SIZE,) * 2
LORA_RANK = 8
LORA_ALPHA = 16.0
NUM_QUERY_TOKENS = 32


@dataclass(frozen=True, kw_only=True)
class EncoderShape:
    """Sizes of a transformer that sees."""

    width: int
    layers: int
    heads: int
    mlp_width: int

    def config_values(self) -> dict[str, int]:
        """What an eval config says of it."""
        return {
            "hidden_size": self.width,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "intermediate_size": self.mlp_width,
        }


@dataclass(frozen=True, kw_only=True)
class TowerShape(EncoderShape):
    """Sizes of the EVA vision tower."""

    width: int = 160
    layers: int = 6
    heads: int = 5
    mlp_width: int = 320

    def config_values(self) -> dict[str, int]:
        return super().config_values() | {"patch_size": PATCH_SIZE}


@dataclass(frozen=True, kw_only=True)
class DecoderShape:
    """Sizes of the decoder, a Llama or a Mistral."""

    width: int = 128
    layers: int = 5
    heads: int = 4
    mlp_width: int = 352

    def config_values(self, vocabulary_size: int) -> dict[str, Any]:
        """What transformers' configs of both say."""
        return {
            "vocab_size": vocabulary_size,
            "hidden_size": self.width,
            "intermediate_size": self.mlp_width,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.heads,
            "max_position_embeddings": 2048,
            "rms_norm_eps": 1e-5,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "tie_word_embeddings": False,
        }


@dataclass(frozen=True, kw_only=True)
class QFormerShape(EncoderShape):
    """Sizes of MiniGPT-4's Q-Former."""

    width: int = 128
    layers: int = 4
    heads: int = 4
    mlp_width: int = 512


class LoraLinear(nn.Module):
    """A linear layer plus a low-rank update that is trained along: y = (W + alpha / rank * B A) x + b."""

    def __init__(self, base: nn.Linear, rank: int, alpha: float) -> None:
        super().__init__()
        self.weight, self.bias = base.weight, base.bias
        self.lora_a = nn.Parameter(torch.empty(rank, base.in_features))
        self.lora_b = nn.Parameter(torch.zeros(base.out_features, rank))
        nn.init.kaiming_uniform_(self.lora_a, a=math.sqrt(5))  # as peft does
        self.scale = alpha / rank

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in] -> [..., out]."""
        return F.linear(x, self.weight + self.scale * (self.lora_b @ self.lora_a), self.bias)


class TinyModel(nn.Module):
    """Vision tower, connector and decoder while they are trained; the names are those of `VisionLanguageModel`.

    `grid` are the rows and columns of what the patch features stand for.
    """

    def __init__(
        self, vision_tower: nn.Module, connector: nn.Module, language_model: PreTrainedModel, *, grid: Grid
    ) -> None:
        super().__init__()
        self.vision_tower = vision_tower
        self.connector = connector
        self.language_model = language_model
        self.grid = grid

    @property
    def num_patches(self) -> int:
        """Patch features per image."""
        return self.grid[0] * self.grid[1]

    def look(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        """Pixel values [B, 3, S, S] -> image tokens [B, N, H] and what the patch heads read, [B, P, V]."""
        features = self.vision_tower.features(pixel_values)  # type: ignore[operator]  # every tower has it
        return self.connector(features), features[:, 1:]


class TokenReadModel(TinyModel):
    """Its patch features are the image tokens themselves, for `MergedPatchHeads`."""

    def look(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        tokens = self.connector(self.vision_tower.features(pixel_values))  # type: ignore[operator]  # every tower has it
        return tokens, tokens


class ConnectorReadModel(TinyModel):
    """Its patch features are what the connector prepares: the queries of a Q-Former, or patches that have mined."""

    def look(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        features = self.vision_tower.features(pixel_values)  # type: ignore[operator]  # every tower has it
        prepared = self.connector.prepare(features)  # type: ignore[operator]  # every connector has it
        return self.connector.projection(prepared), prepared  # type: ignore[operator]


def build_vision_tower(shape: TowerShape, *, trains_ln_vision: bool) -> EvaVisionTower:
    """EVA ViT followed by `ln_vision` (its `post_layernorm`).

    MiniGPT-v2 never loads or saves `ln_vision`: there it stays the identity affine (`trains_ln_vision` False).
    """
    tower = EvaVisionTower(eva_vision_config(IMAGE_SIZE, shape.config_values()))
    tower.set_attn_implementation("eager")  # with 145 tokens on a CPU thread it is faster than the fused kernel
    tower.post_layernorm.requires_grad_(trains_ln_vision)
    for name, parameter in tower.named_parameters():
        if name.endswith("qkv.bias"):
            # A key bias shifts all scores of a query alike: its gradient is zero, it stays the zero that EVA has there.
            nn.init.zeros_(parameter)
    nn.init.normal_(tower.embeddings.position_embedding, std=0.02)
    nn.init.normal_(tower.embeddings.class_embedding, std=0.02)
    return tower


def build_decoder(shape: DecoderShape, *, vocabulary_size: int, coordinate_ids: list[int]) -> LlamaForCausalLM:
    """A small Llama. Rows of coordinate tokens start as Fourier features, so that neighbouring numbers are close."""
    decoder = LlamaForCausalLM(LlamaConfig(**shape.config_values(vocabulary_size)))
    init_vocabulary(decoder.model.embed_tokens, decoder.lm_head, coordinate_ids)
    return decoder


@torch.no_grad()
def init_vocabulary(embedding: nn.Embedding, head: nn.Linear, coordinate_ids: list[int]) -> None:
    """Random input rows; rows of coordinates start as Fourier features in both."""
    features = fourier_features(torch.arange(len(coordinate_ids)), embedding.embedding_dim)
    nn.init.normal_(embedding.weight, std=0.2)
    embedding.weight[coordinate_ids] = 0.2 * features
    head.weight[coordinate_ids] = 0.05 * features


def add_lora(decoder: LlamaForCausalLM) -> None:
    """Put LoRA on q_proj and v_proj of every layer, as MiniGPT-v2 has it."""
    for layer in decoder.model.layers:
        for name in ("q_proj", "v_proj"):
            base = getattr(layer.self_attn, name)
            setattr(layer.self_attn, name, LoraLinear(base, LORA_RANK, LORA_ALPHA))


def part_of(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix`, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def build_merge_connector(tower: TowerShape, decoder: DecoderShape) -> PatchMergeProjector:
    """MiniGPT-v2's connector: four patches in a row become one image token."""
    return PatchMergeProjector(vision_width=tower.width, text_width=decoder.width, merge=MERGED_PATCHES)


def small_qformer_config(tower: TowerShape, shape: QFormerShape) -> Blip2QFormerConfig:
    """BLIP-2's Q-Former in small."""
    overrides = shape.config_values() | {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return qformer_config(tower.width, overrides)


def build_qformer_connector(
    tower: TowerShape, decoder: DecoderShape, shape: QFormerShape, *, inner_width: int | None = None
) -> QFormerConnector:
    """MiniGPT-4's connector: learned queries read all tokens of the tower, CLS included.

    `inner_width` is that between the two linear layers of TinyGPT-V.
    """
    connector = QFormerConnector(
        config=small_qformer_config(tower, shape),
        num_query_tokens=NUM_QUERY_TOKENS,
        text_width=decoder.width,
        inner_width=inner_width,
    )
    nn.init.normal_(connector.query_tokens, std=1.0)
    return connector


def fourier_features(values: Tensor, width: int) -> Tensor:
    """Sines and cosines of 0…100 at wavelengths from 4 to 400: [N] -> [N, width] with mean square 1."""
    wavelengths = torch.logspace(math.log10(4), math.log10(400), width // 2)
    phases = values[:, None].float() * (2 * math.pi / wavelengths)
    return math.sqrt(2) * torch.cat((phases.sin(), phases.cos()), dim=1)
