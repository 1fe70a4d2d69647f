"""TinyGPT-V (arXiv:2312.16862): EVA-CLIP-g -> BLIP-2 Q-Former -> two linear layers -> Phi-2 with extra norms and LoRA.

Released by DLYuanGod/TinyGPT-V as one small file per training stage: stages 1-3 at 224 px, stage 4 at 448 px with task
identifiers and boxes. 32 image tokens. The base files are EVA's, BLIP-2's and any published Phi-2 folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn
from transformers import PhiConfig

from models.codegen_tokenizer import CodeGenTokenizer
from models.config import released_file
from models.conversation import Sampling
from models.errors import CheckpointMismatch, ConfigError
from models.module_config import explained
from models.parts.connectors import BLIP2_UNUSED, QFormerConnector, qformer_config, qformer_tensors
from models.parts.eva_vision import eva_vision_part
from models.parts.minigpt import (
    BLIP2_SOURCE,
    EVA_SOURCE,
    MINIGPT_BUFFERS,
    MiniGPTConfig,
    assemble_minigpt,
    check_nothing_left,
)
from models.parts.minigpt_chat import DESCRIBING_TASKS, GROUNDING_TASKS, MINIGPT_V2, VICUNA_V0
from models.parts.phi import PostNormPhiForCausalLM, phi_config, split_interleaved, split_qkv_layout
from models.released import ReleasedFiles
from models.vision_language_model import VisionLanguageModel
from models.weights import Drop, Lora, Part, Rename, Tensors, check_lora_rank, rename, take_lora, take_prefix

END_OF_ANSWER = "###"  # one piece of Phi-2's vocabulary; the reference gives its id to `generate` as EOS
_STAGE_4 = replace(
    MINIGPT_V2,
    stop_strings=(END_OF_ANSWER,),
    answer_starts_after="Assistant:",
    reserved=(*MINIGPT_V2.reserved, END_OF_ANSWER),
)
CONVERSATIONS = {"vicuna_v0": (VICUNA_V0, DESCRIBING_TASKS), "minigpt_v2": (_STAGE_4, GROUNDING_TASKS)}

# The stage files come with LoRA (peft's prefix) or without, and with peft's older or newer names.
_STAGE_RULES = (
    MINIGPT_BUFFERS,
    Rename(r"^llama_model\.(base_model\.model\.)?", "llm."),
    Rename(r"\.base_layer\.", "."),
)
_PHI_BUFFERS = Drop(r"rotary_emb\.inv_freq$|\.(masked_)?bias_mask$", why="a buffer that is computed, not loaded")


@dataclass(frozen=True, kw_only=True)
class Config(MiniGPTConfig):
    """Keys of a TinyGPT-V YAML. `vision_config`, `qformer_config` override fields of transformers' BLIP-2 configs."""

    language_model: str = released_file(
        "Phi-2 is at https://huggingface.co/microsoft/phi-2 (any of its published layouts will do).",
        default="microsoft/phi-2",
    )
    vision_tower: str = released_file(EVA_SOURCE, default="eva_vit_g.pth")
    qformer: str = released_file(BLIP2_SOURCE, default="blip2_pretrained_flant5xxl.pth")
    checkpoint: str = released_file(
        "Download it from https://huggingface.co/Tyrannosaurus/TinyGPT-V into checkpoints/tinygpt_v/."
    )
    conversation: str = "vicuna_v0"
    num_query_tokens: int = 32
    qformer_config: dict[str, Any] = field(default_factory=dict)
    lora_rank: int | None = None
    lora_alpha: float = 16.0
    sampling: Sampling = field(default_factory=lambda: Sampling(temperature=1.0, max_new_tokens=300))

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_choice("conversation", CONVERSATIONS)


def parts(config: Config, files: ReleasedFiles) -> dict[str, Part]:
    """The three modules and the released tensors each is loaded from; what the stage file holds wins."""
    source = files.source("checkpoint")
    stage = rename(files.tensors("checkpoint"), _STAGE_RULES)
    llm = _language_model_part(config, files, stage)
    vision = config.tower_config
    frozen = rename(files.tensors("qformer"), (BLIP2_UNUSED,))
    frozen |= {name: stage.pop(name) for name in list(stage) if not name.startswith("llama_proj")}
    ln_vision = take_prefix(frozen, "ln_vision.")
    if not ln_vision:
        raise CheckpointMismatch(f"{files.source('qformer')} has no ln_vision; is it blip2_pretrained_flant5xxl.pth?")
    eva = files.tensors("vision_tower") | take_prefix(frozen, "visual_encoder.")
    tower = eva_vision_part(eva, vision, source=files.source("vision_tower"), ln_vision=ln_vision)
    for name in ("llama_proj.weight", "llama_proj2.weight"):
        if name not in stage:
            raise CheckpointMismatch(f"{source} has no {name}; it is not a TinyGPT-V stage file.")
    first, second = take_prefix(stage, "llama_proj."), take_prefix(stage, "llama_proj2.")
    inner_width = first["weight"].shape[0]
    projection = {f"projection.0.{k}": t for k, t in first.items()} | {
        f"projection.1.{k}": t for k, t in second.items()
    }
    qformer = qformer_config(vision.hidden_size, config.qformer_config, where=f"{config.source}: qformer_config")
    connector = Part(
        name="Q-Former",
        source=files.source("qformer"),
        module_class=QFormerConnector,
        config={
            "config": qformer,
            "num_query_tokens": config.num_query_tokens,
            "text_width": llm.config.hidden_size,
            "inner_width": inner_width,
        },
        tensors=qformer_tensors(frozen) | projection,
        hint="Are these the Q-Former, stage file and Phi-2 of one TinyGPT-V?",
    )
    check_nothing_left(frozen | stage, source=source)
    return {"vision_tower": tower, "connector": connector, "language_model": llm}


def _language_model_part(config: Config, files: ReleasedFiles, stage: Tensors) -> Part:
    """Phi-2 with the stage's norms and LoRA (both taken out of `stage`)."""
    source = files.source("language_model")
    values = files.config_values("language_model")
    if values.get("model_type") not in ("phi", "phi-msft", "mixformer-sequential"):
        raise ConfigError(f"{source}: TinyGPT-V needs Phi-2, found {values.get('model_type')!r}; use microsoft/phi-2.")
    with explained(f"{source}/config.json"):
        phi = phi_config(values)
    lora = take_lora(stage, prefix="llm.", alpha=config.lora_alpha)
    if lora is not None:
        check_lora_rank(lora, config.lora_rank, source=files.source("checkpoint"))
    base = rename(files.tensors("language_model"), (_PHI_BUFFERS,))
    tensors = split_qkv_layout(base, phi, source=source) | take_prefix(stage, "llm.")
    for layer in range(phi.num_hidden_layers):
        for norm in ("q_layernorm", "k_layernorm"):
            # No file holds these biases: they were frozen at zero and so never saved.
            name = f"model.layers.{layer}.self_attn.{norm}"
            tensors.setdefault(f"{name}.bias", torch.zeros(phi.hidden_size // phi.num_attention_heads))
    return Part(
        name="language model",
        source=source,
        module_class=PostNormPhiForCausalLM,
        config=phi,
        tensors=tensors,
        lora=None if lora is None else split_lora(lora, phi),
        is_quantizable=True,
        hint=f"Is it Phi-2, and is {files.source('checkpoint')} a TinyGPT-V stage file?",
    )


def split_lora(lora: Lora, config: PhiConfig) -> Lora:
    """LoRA of the fused `query_key_value` as three that share A; rows of B are split like the rows of the weight."""
    pairs = {}
    for name, (lora_a, lora_b) in lora.pairs.items():
        if "query_key_value" not in name:
            pairs[name] = (lora_a, lora_b)
            continue
        rows = split_interleaved(lora_b, config.num_attention_heads)
        pairs |= {name.replace("query_key_value", f"{p}_proj"): (lora_a, b) for p, b in zip("qkv", rows, strict=True)}
    return Lora(pairs=pairs, alpha=lora.alpha)


def tokenizer(files: ReleasedFiles) -> CodeGenTokenizer:
    """The language model's tokenizer."""
    return CodeGenTokenizer(files.path("language_model"))


def assemble(
    config: Config, _files: ReleasedFiles, modules: Mapping[str, nn.Module], tokenizer: CodeGenTokenizer
) -> VisionLanguageModel:
    """Put the loaded modules together."""
    prompt_format, tasks = CONVERSATIONS[config.conversation]
    model = assemble_minigpt(
        config,
        modules,
        tokenizer=tokenizer,
        prompt_format=prompt_format,
        tasks=tasks,
        num_image_tokens=config.num_query_tokens,
    )
    model.eos_token_ids = (tokenizer.token_id(END_OF_ANSWER),)
    model.penalised_ids = (tokenizer.bos_token_id,)
    return model
