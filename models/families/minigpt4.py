"""MiniGPT-4 (arXiv:2304.10592): EVA-CLIP-g at 224 px -> connector -> Vicuna v0 or Llama-2-chat.

Released by Vision-CAIR/MiniGPT-4 in two kinds: Vicuna 7B/13B with BLIP-2's Q-Former (32 image tokens), and Llama-2 7B
whose connector joins 4 neighbouring patches (64 image tokens).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn
from transformers import Blip2VisionConfig

from models.conversation import Sampling
from models.errors import CheckpointMismatch
from models.family_config import released_file
from models.files.released import ReleasedFiles
from models.formats.minigpt import DESCRIBING_TASKS, LLAMA_2, VICUNA_V0
from models.parts.connectors import (
    BLIP2_UNUSED,
    MERGED_PATCHES,
    QFormerConnector,
    patch_merge_part,
    qformer_config,
    qformer_tensors,
    released_in_qformer,
)
from models.parts.eva_vision import eva_vision_part, num_patches
from models.parts.minigpt import (
    BLIP2_SOURCE,
    EVA_SOURCE,
    LLAMA2_SOURCE,
    MINIGPT_BUFFERS,
    REPOSITORY,
    MiniGPTConfig,
    assemble_minigpt,
    check_nothing_left,
    llama_part,
    take_projection,
    take_trained_tower,
)
from models.tensors.origins import Origin
from models.tensors.weights import Part, Tensors, rename, replaced, take_lora, take_prefix
from models.tokenizers.sentencepiece import SentencePieceTokenizer
from models.vision_language_model import Tokenizer, VisionLanguageModel

PROMPTS = {"vicuna_v0": VICUNA_V0, "llama_2": LLAMA_2}


@dataclass(frozen=True, kw_only=True)
class Config(MiniGPTConfig):
    """Keys of a MiniGPT-4 YAML. `vision_config`, `qformer_config` override fields of transformers' BLIP-2 configs."""

    language_model: str = released_file(
        "Vicuna v0 is at https://huggingface.co/Vision-CAIR/vicuna-7b and https://huggingface.co/Vision-CAIR/vicuna"
        f" (13B); {LLAMA2_SOURCE}"
    )
    vision_tower: str = released_file(EVA_SOURCE, default="eva_vit_g.pth")
    qformer: str | None = released_file(BLIP2_SOURCE, default="blip2_pretrained_flant5xxl.pth")
    checkpoint: str = released_file(f"Download it from {REPOSITORY} (README, MiniGPT-4) into checkpoints/minigpt4/.")
    conversation: str = "vicuna_v0"
    has_qformer: bool = True
    num_query_tokens: int = 32
    qformer_config: dict[str, Any] = field(default_factory=dict)
    sampling: Sampling = field(default_factory=lambda: Sampling(temperature=1.0, max_new_tokens=300))

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_choice("conversation", PROMPTS)
        if not self.has_qformer:
            object.__setattr__(self, "qformer", None)  # no such file is needed, so none is looked for


def parts(config: Config, files: ReleasedFiles) -> dict[str, Part]:
    """The three modules and the released tensors each is loaded from."""
    vision = config.tower_config
    source = files.source("checkpoint")
    checkpoint = rename(files.tensors("checkpoint"), (MINIGPT_BUFFERS,))
    if take_lora(checkpoint, prefix="llama_model.", alpha=1.0):
        raise CheckpointMismatch(f"{source} has LoRA tensors: it is MiniGPT-v2; use eval_configs/minigpt_v2.yaml.")
    # Tensors trained along with the projection win over the files they started from, as in the original loader.
    frozen = rename(files.tensors("qformer"), (BLIP2_UNUSED,)) if config.has_qformer else {}
    trained_tower, trained_ln = take_trained_tower(checkpoint)
    ln_vision = replaced(take_prefix(frozen, "ln_vision."), trained_ln, what="ln_vision") or None
    if config.has_qformer and ln_vision is None:
        raise CheckpointMismatch(f"{files.source('qformer')} has no ln_vision; is it blip2_pretrained_flant5xxl.pth?")
    tower = eva_vision_part(
        files.tensors("vision_tower"),
        vision,
        source=files.source("vision_tower"),
        ln_vision=ln_vision,
        ln_source=files.source("qformer") if config.has_qformer else source,
        trained=trained_tower,
    )
    llm = llama_part(files)
    connector = _connector_part(config, files, checkpoint, frozen, vision=vision, llm=llm)
    check_nothing_left(frozen | checkpoint, source=source)
    return {"vision_tower": tower, "connector": connector, "language_model": llm}


def _connector_part(
    config: Config, files: ReleasedFiles, checkpoint: Tensors, frozen: Tensors, *, vision: Blip2VisionConfig, llm: Part
) -> Part:
    qformer = qformer_config(vision.hidden_size, config.qformer_config, where=f"{config.source}: qformer_config")
    input_width = qformer.hidden_size if config.has_qformer else vision.hidden_size * MERGED_PATCHES
    source = files.source("checkpoint")
    weight, bias = take_projection(
        checkpoint,
        source=source,
        llm=llm.config,
        llm_source=llm.source,
        input_width=input_width,
    )
    if not config.has_qformer:
        return patch_merge_part((weight, bias), vision=vision, source=source, where=str(config.source))
    return Part(
        name="Q-Former",
        source=files.source("qformer"),
        module_class=QFormerConnector,
        config={
            "config": qformer,
            "num_query_tokens": config.num_query_tokens,
            "text_width": llm.config.hidden_size,
        },
        tensors=qformer_tensors(frozen, checkpoint) | {"projection.weight": weight, "projection.bias": bias},
        hint="Is it blip2_pretrained_flant5xxl.pth, and does qformer_config describe it?",
        released=lambda name: (
            Origin(source, name.replace("projection.", "llama_proj."))
            if name.startswith("projection.")
            else Origin(files.source("qformer"), released_in_qformer(name))
        ),
    )


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
        prompt_format=PROMPTS[config.conversation],
        tasks=DESCRIBING_TASKS,
        num_image_tokens=config.num_query_tokens if config.has_qformer else num_patches(vision) // MERGED_PATCHES,
    )
