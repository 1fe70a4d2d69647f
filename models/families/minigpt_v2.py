"""MiniGPT-v2 (arXiv:2310.09478): EVA-CLIP-g at 448 px -> joins 4 patches -> linear -> Llama-2-chat with LoRA.

Released by Vision-CAIR/MiniGPT-4. 256 image tokens. Understands task identifiers and answers with boxes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import nn

from models.conversation import Sampling
from models.errors import CheckpointMismatch
from models.family_config import released_file
from models.files.released import ReleasedFiles
from models.formats.minigpt import GROUNDING_TASKS, MINIGPT_V2
from models.parts.connectors import MERGED_PATCHES, patch_merge_part
from models.parts.eva_vision import eva_vision_part, num_patches
from models.parts.minigpt import (
    EVA_SOURCE,
    LLAMA2_SOURCE,
    MINIGPT_BUFFERS,
    REPOSITORY,
    MiniGPTConfig,
    assemble_minigpt,
    check_lora_targets,
    check_nothing_left,
    llama_part,
    take_projection,
    take_trained_tower,
)
from models.parts.trained_values import trained_alpha
from models.tensors.weights import Part, check_lora_rank, rename, take_lora
from models.tokenizers.sentencepiece import SentencePieceTokenizer
from models.vision_language_model import Tokenizer, VisionLanguageModel

LORA_TARGETS = ("self_attn.q_proj", "self_attn.v_proj")
_LLM_PREFIX = "llama_model.base_model.model."


@dataclass(frozen=True, kw_only=True)
class Config(MiniGPTConfig):
    """Keys of a MiniGPT-v2 YAML. `vision_config` overrides fields of transformers' `Blip2VisionConfig`."""

    language_model: str = released_file(LLAMA2_SOURCE, default="meta-llama/Llama-2-7b-chat-hf")
    vision_tower: str = released_file(EVA_SOURCE, default="eva_vit_g.pth")
    checkpoint: str = released_file(
        f"Download minigptv2_checkpoint.pth from {REPOSITORY} (README, MiniGPT-v2) into checkpoints/minigpt_v2/."
    )
    image_size: int = 448
    lora_rank: int | None = None
    lora_alpha: float | None = None  # as the checkpoint says, else 16
    sampling: Sampling = field(default_factory=lambda: Sampling(temperature=0.6, max_new_tokens=500))


def parts(config: Config, files: ReleasedFiles) -> dict[str, Part]:
    """The three modules and the released tensors each is loaded from."""
    vision = config.tower_config
    source = files.source("checkpoint")
    checkpoint = rename(files.tensors("checkpoint"), (MINIGPT_BUFFERS,))
    alpha = trained_alpha(files, config.lora_alpha, where=str(config.source))
    lora = take_lora(checkpoint, prefix=_LLM_PREFIX, alpha=alpha)
    if lora is None:
        raise CheckpointMismatch(
            f"{source} has no LoRA tensors, so it is not MiniGPT-v2; for MiniGPT-4 use eval_configs/minigpt4_*.yaml."
        )
    check_lora_rank(lora, config.lora_rank, source=source)
    llm = llama_part(files, lora=lora)
    projection = take_projection(
        checkpoint,
        source=source,
        llm=llm.config,
        llm_source=llm.source,
        input_width=vision.hidden_size * MERGED_PATCHES,
    )
    check_lora_targets(lora, LORA_TARGETS, num_layers=llm.config.num_hidden_layers, prefix=_LLM_PREFIX, source=source)
    trained_tower, ln_vision = take_trained_tower(checkpoint)
    tower = eva_vision_part(
        files.tensors("vision_tower"),
        vision,
        source=files.source("vision_tower"),
        ln_vision=ln_vision or None,
        ln_source=source,
        trained=trained_tower,
    )
    check_nothing_left(checkpoint, source=source)
    connector = patch_merge_part(projection, vision=vision, source=source, where=str(config.source))
    return {"vision_tower": tower, "connector": connector, "language_model": llm}


def tokenizer(files: ReleasedFiles) -> Tokenizer:
    """The language model's tokenizer."""
    return SentencePieceTokenizer(files.path("language_model") / "tokenizer.model")


def assemble(
    config: Config, _files: ReleasedFiles, modules: Mapping[str, nn.Module], tokenizer: Tokenizer
) -> VisionLanguageModel:
    """Put the loaded modules together."""
    vision = config.tower_config
    return assemble_minigpt(
        config,
        modules,
        tokenizer=tokenizer,
        prompt_format=MINIGPT_V2,
        tasks=GROUNDING_TASKS,
        num_image_tokens=num_patches(vision) // MERGED_PATCHES,
    )
