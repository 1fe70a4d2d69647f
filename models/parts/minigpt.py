"""What the MiniGPT families share: their Llama as a `Part`, the checks of their stage checkpoint, and the assembly."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from transformers import Blip2VisionConfig, LlamaConfig, LlamaForCausalLM, PreTrainedConfig, PreTrainedModel

from models.errors import CheckpointMismatch, ConfigError
from models.family_config import FamilyConfig
from models.files.released import ReleasedFiles
from models.parts.eva_vision import EvaVisionTower, eva_vision_config
from models.preprocessing import SquareResize
from models.prompt import PromptFormat
from models.tasks import Task
from models.tensors.completeness import check_size
from models.tensors.origins import Origin, origin_of
from models.tensors.weights import Drop, Lora, Part, Tensors, rename, take_prefix
from models.vision_language_model import Tokenizer, VisionLanguageModel

# Left behind in MiniGPT checkpoints by the original saver, which keeps every buffer.
MINIGPT_BUFFERS = Drop(r"rotary_emb\.inv_freq$|embeddings\.position_ids$", why="a buffer that is computed, not loaded")

LLAMA2_SOURCE = (
    "Llama-2-7b-chat is at https://huggingface.co/meta-llama/Llama-2-7b-chat-hf (accept its licence there first)."
)
EVA_SOURCE = (
    "Download https://storage.googleapis.com/sfr-vision-language-research/LAVIS/models/BLIP2/eva_vit_g.pth"
    " into checkpoints/."
)
BLIP2_SOURCE = (
    "Download https://storage.googleapis.com/sfr-vision-language-research/LAVIS/models/BLIP2/"
    "blip2_pretrained_flant5xxl.pth into checkpoints/."
)
REPOSITORY = "https://github.com/Vision-CAIR/MiniGPT-4"

CONTEXT_TOKENS = 2000  # `max_length` of the originals' Chat
_SIZES = {4096: "7B", 5120: "13B"}


@dataclass(frozen=True, kw_only=True)
class MiniGPTConfig(FamilyConfig):
    """The keys about the vision tower that all families with EVA-CLIP take."""

    image_size: int = 224
    vision_config: dict[str, Any] = field(default_factory=dict)

    @property
    def tower_config(self) -> Blip2VisionConfig:
        """The tower's sizes. Raises ConfigError."""
        return eva_vision_config(self.image_size, self.vision_config, where=f"{self.source}: vision_config")


def llama_part(files: ReleasedFiles, *, lora: Lora | None = None) -> Part:
    """`LlamaForCausalLM` from the folder of the key `language_model`, with a checkpoint's LoRA to be merged into it."""
    config = files.language_model_config("language_model")
    if not isinstance(config, LlamaConfig):
        raise ConfigError(
            f"{files.source('language_model')}: this family needs a Llama or Vicuna model, found {config.model_type!r}."
        )
    if config.pad_token_id is not None and not 0 <= config.pad_token_id < config.vocab_size:
        config.pad_token_id = None  # Vicuna v0 says -1; nothing here pads with it
    return Part(
        name="language model",
        source=files.source("language_model"),
        module_class=LlamaForCausalLM,
        config=config,
        tensors=rename(files.tensors("language_model"), (MINIGPT_BUFFERS,)),
        lora=lora,
        is_quantizable=True,
        hint="Do the folder's weights and its config.json belong together?",
    )


def take_projection(
    checkpoint: Tensors, *, source: str, llm: PreTrainedConfig, llm_source: str, input_width: int
) -> tuple[Tensor, Tensor]:
    """`llama_proj.{weight [H, input_width], bias [H]}`, taken out of a MiniGPT checkpoint.

    Raises CheckpointMismatch with the likely cause: another family, another language model size, Q-Former or not.
    """
    if missing := {"llama_proj.weight", "llama_proj.bias"} - checkpoint.keys():
        found = ", ".join(sorted(checkpoint)[:3]) or "nothing"
        raise CheckpointMismatch(
            f"{source} has no {min(missing)}; it is not a MiniGPT-4 or MiniGPT-v2 checkpoint (found {found})."
        )
    weight, bias = checkpoint.pop("llama_proj.weight"), checkpoint.pop("llama_proj.bias")
    if weight.dim() != 2:
        check_size(weight, (llm.hidden_size, input_width), owner="connector", default=Origin(source, "llama_proj"))
    text_width, width = weight.shape
    if width != input_width:
        made = "with a Q-Former (Vicuna)" if width == 768 else "without a Q-Former (Llama-2)" if width == 5632 else ""
        raise CheckpointMismatch(
            f"{source}: llama_proj.weight takes {width} values, but this configuration gives it {input_width}. "
            + (f"The checkpoint was made {made}; choose the YAML of that variant." if made else "Wrong vision_config?")
        )
    if text_width != llm.hidden_size:
        size, has = (_SIZES.get(value, "different") for value in (text_width, llm.hidden_size))
        raise CheckpointMismatch(
            f"{source}: llama_proj.weight is [{text_width}, {width}]: this checkpoint is for a {size} language model "
            f"(width {text_width}), but {llm_source} is a {has} one (width {llm.hidden_size}). Pair them by size."
        )
    return weight, bias


def check_nothing_left(checkpoint: Tensors, *, source: str) -> None:
    """Raises CheckpointMismatch if tensors of a stage checkpoint were not used by any part."""
    if checkpoint:
        first = min(origin_of(tensor, Origin(source, name)) for name, tensor in checkpoint.items())
        raise CheckpointMismatch(
            f"{first.file}: {len(checkpoint)} tensors fit nothing in this family (first: {first.name}). "
            "Is it the checkpoint of another family? Choose its YAML."
        )


def take_trained_tower(checkpoint: Tensors) -> tuple[Tensors, Tensors]:
    """Take the vision tower and its `ln_vision` out of a stage file; empty where the stage froze them."""
    return take_prefix(checkpoint, "visual_encoder."), take_prefix(checkpoint, "ln_vision.")


def check_lora_targets(lora: Lora, targets: Collection[str], *, num_layers: int, prefix: str, source: str) -> None:
    """Raises CheckpointMismatch unless a checkpoint's LoRA updates these linear layers of every block and no other.

    `targets` are names within a block, as in `self_attn.q_proj`; `prefix` is what released names begin with.
    """
    wanted = [f"model.layers.{layer}.{target}.weight" for layer in range(num_layers) for target in targets]
    missing = [name for name in wanted if name not in lora.pairs]
    extra = sorted(lora.pairs.keys() - set(wanted))
    if missing:
        name = prefix + missing[0].removesuffix("weight") + "lora_A.weight"
        has = f" It has one of {extra[0].removesuffix('.weight')} instead." if extra else ""
        raise CheckpointMismatch(
            f"{source}: {len(missing)} of {len(wanted)} LoRA pairs are missing (first: {name}).{has} "
            "Is it complete, and of this language model?"
        )
    if extra:
        first = origin_of(lora.pairs[extra[0]][0], Origin(source, extra[0]))
        raise CheckpointMismatch(
            f"{first.file}: {first.name} updates what this family's LoRA does not ({', '.join(targets)} of "
            f"{num_layers} blocks)."
        )


def assemble_minigpt(
    config: FamilyConfig,
    modules: Mapping[str, nn.Module],
    *,
    tokenizer: Tokenizer,
    prompt_format: PromptFormat,
    tasks: tuple[Task, ...],
    num_image_tokens: int,
    eos_token_ids: Sequence[int] | None = None,
    penalised_ids: Sequence[int] | None = None,
) -> VisionLanguageModel:
    """EVA tower, connector and language model, with the square resize that all of them use."""
    tower, llm = modules["vision_tower"], modules["language_model"]
    assert isinstance(tower, EvaVisionTower)
    assert isinstance(llm, PreTrainedModel)
    return VisionLanguageModel(
        vision_tower=tower,
        vision_features=tower.features,
        connector=modules["connector"],
        language_model=llm,
        tokenizer=tokenizer,
        image_processor=SquareResize(tower.image_size),
        prompt_format=prompt_format,
        num_image_tokens=num_image_tokens,
        info=config.model_info(tasks=tasks, trained_context=CONTEXT_TOKENS, one_image_per_chat=True),
        eos_token_ids=eos_token_ids,
        penalised_ids=penalised_ids,
    )
