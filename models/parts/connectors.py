"""Connectors: vision features -> image tokens in the language model's width.

B images, P patches, V vision width, Q query tokens, H language model width.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Blip2QFormerConfig, Blip2QFormerModel, Blip2VisionConfig

from models.errors import ConfigError
from models.parts.eva_vision import num_patches
from models.tensors.module_config import module_config
from models.tensors.origins import Origin
from models.tensors.weights import Drop, Part, Rename, Tensors, rename, renamed_from, replaced, take_prefix

MERGED_PATCHES = 4  # that become one image token in the models without a Q-Former
BLIP2_UNUSED = Drop(r"^(t5_proj|t5_model|opt_proj|visual_encoder)\.", why="of BLIP-2's own language model and tower")

_QFORMER_RULES = (
    Drop(r"embeddings\.(position_ids|word_embeddings|position_embeddings)", why="the Q-Former reads no text here"),
    Drop(r"^encoder\.layer\.\d+\.(intermediate|output)\.", why="the text feed-forward; queries have their own"),
    Rename(r"^embeddings\.LayerNorm\.", "layernorm."),
    Rename(r"attention\.self\.", "attention.attention."),
)


class PatchMergeProjector(nn.Module):
    """Joins `merge` consecutive patches, row by row, and projects them: [B, 1 + P, V] -> [B, P / merge, H].

    CLS is dropped. Source: MiniGPT-4, `minigpt_v2.py` and `minigpt4.py`, `encode_img`.
    """

    def __init__(self, *, vision_width: int, text_width: int, merge: int = 4) -> None:
        super().__init__()
        self.merge = merge
        self.projection = nn.Linear(vision_width * merge, text_width)

    def prepare(self, features: Tensor) -> Tensor:
        """The input of `projection`: [B, 1 + P, V] -> [B, P / merge, merge * V]."""
        patches = features[:, 1:]
        return patches.reshape(patches.shape[0], -1, patches.shape[2] * self.merge)

    def forward(self, features: Tensor) -> Tensor:
        return self.projection(self.prepare(features))


def patch_merge_part(projection: tuple[Tensor, Tensor], *, vision: Blip2VisionConfig, source: str, where: str) -> Part:
    """A `PatchMergeProjector` from its weight [H, MERGED_PATCHES * V] and bias [H].

    Raises ConfigError, naming `where`, if the patches of an image can't be joined by so many.
    """
    if num_patches(vision) % MERGED_PATCHES:
        raise ConfigError(
            f"{where}: an image of {vision.image_size} px has {num_patches(vision)} patches; image_size must give a "
            f"multiple of {MERGED_PATCHES}."
        )
    weight, bias = projection
    return Part(
        name="connector",
        source=source,
        module_class=PatchMergeProjector,
        config={"vision_width": vision.hidden_size, "text_width": weight.shape[0], "merge": MERGED_PATCHES},
        tensors={"projection.weight": weight, "projection.bias": bias},
        released=lambda name: Origin(source, name.replace("projection.", "llama_proj.")),
    )


class QFormerConnector(nn.Module):
    """Learned queries read all vision tokens through a Q-Former: [B, 1 + P, V] -> [B, Q, H].

    `inner_width` puts a second linear layer behind the first, with nothing between them (TinyGPT-V).
    Source: MiniGPT-4, `minigpt4.py`, `encode_img` (BLIP-2, arXiv:2301.12597).
    """

    def __init__(
        self, *, config: Blip2QFormerConfig, num_query_tokens: int, text_width: int, inner_width: int | None = None
    ) -> None:
        super().__init__()
        self.qformer = Blip2QFormerModel(config)
        self.query_tokens = nn.Parameter(torch.zeros(1, num_query_tokens, config.hidden_size))
        widths = (
            [config.hidden_size, text_width] if inner_width is None else [config.hidden_size, inner_width, text_width]
        )
        layers = [nn.Linear(before, after) for before, after in pairwise(widths)]
        self.projection = layers[0] if inner_width is None else nn.Sequential(*layers)

    def prepare(self, features: Tensor) -> Tensor:
        """The input of `projection`: [B, 1 + P, V] -> [B, Q, Q-Former width]."""
        queries = self.query_tokens.expand(features.shape[0], -1, -1)
        return self.qformer(query_embeds=queries, encoder_hidden_states=features).last_hidden_state

    def forward(self, features: Tensor) -> Tensor:
        return self.projection(self.prepare(features))


def qformer_config(
    vision_width: int, overrides: Mapping[str, Any] | None = None, *, where: str = "qformer_config"
) -> Blip2QFormerConfig:
    """BERT-base with cross-attention to vision features of this width in every second layer. Raises ConfigError."""
    values: dict[str, Any] = {"encoder_hidden_size": vision_width, "use_qformer_text_input": False}
    return module_config(Blip2QFormerConfig, values, overrides, where=where)


def qformer_tensors(released: Tensors, trained: Tensors) -> Tensors:
    """The tensors of a `QFormerConnector` without its projection, taken out of those of a BLIP-2 file.

    `trained` are those of a stage file that may hold a Q-Former of its own; it is taken out of there as well.
    """
    base, own = (rename(take_prefix(file, "Qformer.bert."), _QFORMER_RULES) for file in (released, trained))
    qformer = replaced(base, own, what="Q-Former")
    tensors = {f"qformer.{name}": tensor for name, tensor in qformer.items()}
    for file in (released, trained):
        if "query_tokens" in file:
            tensors["query_tokens"] = file.pop("query_tokens")
    return tensors


def released_in_qformer(name: str) -> str:
    """A name of `qformer_tensors` as BLIP-2's file has it."""
    prefix = "qformer."
    if not name.startswith(prefix):
        return name
    return "Qformer.bert." + renamed_from(name.removeprefix(prefix), _QFORMER_RULES)
