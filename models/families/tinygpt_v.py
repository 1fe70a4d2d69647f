"""TinyGPT-V (arXiv:2312.16862): EVA-CLIP-g -> BLIP-2 Q-Former -> two linear layers -> Phi-2 with extra norms and LoRA.

Released by DLYuanGod/TinyGPT-V as one small file per training stage: stages 1-3 at 224 px, stage 4 at 448 px with task
identifiers and boxes. 32 image tokens. The base files are EVA's, BLIP-2's and any published Phi-2 folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from statistics import mode
from typing import Any

import torch
from torch import nn
from transformers import PhiConfig

from models.conversation import Sampling
from models.errors import CheckpointMismatch, ConfigError
from models.family_config import released_file
from models.files.released import ReleasedFiles
from models.formats.minigpt import DESCRIBING_TASKS, GROUNDING_TASKS, MINIGPT_V2, VICUNA_V0
from models.parts.connectors import BLIP2_UNUSED, QFormerConnector, qformer_config, qformer_tensors, released_in_qformer
from models.parts.eva_vision import eva_vision_part
from models.parts.minigpt import (
    BLIP2_SOURCE,
    EVA_SOURCE,
    MINIGPT_BUFFERS,
    MiniGPTConfig,
    assemble_minigpt,
    check_lora_targets,
    check_nothing_left,
    take_trained_tower,
)
from models.parts.phi import PostNormPhiForCausalLM, phi_config, released_in_phi, split_interleaved, split_qkv_layout
from models.parts.trained_values import trained_alpha
from models.tensors.completeness import check_size
from models.tensors.module_config import as_config_error
from models.tensors.origins import Origin, made_from
from models.tensors.weights import (
    Drop,
    Lora,
    Part,
    Rename,
    Tensors,
    check_lora_rank,
    rename,
    replaced,
    take_lora,
    take_prefix,
)
from models.tokenizers.codegen import CodeGenTokenizer
from models.vision_language_model import VisionLanguageModel

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
_LLM_PREFIX = "llama_model.base_model.model."  # as peft wraps it
_BARE_LLM_PREFIX = "llama_model."
_PROJECTIONS = ("llama_proj.", "llama_proj2.")
# What every stage trains in Phi-2's blocks, beside the final norm, and what its LoRA updates.
_STAGE_NORMS = ("input_layernorm", "post_layernorm", "self_attn.q_layernorm", "self_attn.k_layernorm")
LORA_TARGETS = ("self_attn.query_key_value", "self_attn.dense")
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
    lora_alpha: float | None = None  # as the checkpoint says, else 16
    sampling: Sampling = field(default_factory=lambda: Sampling(temperature=1.0, max_new_tokens=300))

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_choice("conversation", CONVERSATIONS)


def parts(config: Config, files: ReleasedFiles) -> dict[str, Part]:
    """The three modules and the released tensors each is loaded from; what the stage file holds wins."""
    source, qformer_source = files.source("checkpoint"), files.source("qformer")
    stage = rename(files.tensors("checkpoint"), _STAGE_RULES)
    for name in ("llama_proj.weight", "llama_proj2.weight"):
        if name not in stage:
            raise CheckpointMismatch(f"{source} has no {name}; it is not a TinyGPT-V stage file.")
    llm = _language_model_part(config, files, stage)
    vision = config.tower_config
    frozen = rename(files.tensors("qformer"), (BLIP2_UNUSED,))
    trained_tower, trained_ln = take_trained_tower(stage)
    ln_vision = replaced(take_prefix(frozen, "ln_vision."), trained_ln, what="ln_vision")
    if not ln_vision:
        raise CheckpointMismatch(f"{qformer_source} has no ln_vision; is it blip2_pretrained_flant5xxl.pth?")
    tower = eva_vision_part(
        files.tensors("vision_tower"),
        vision,
        source=files.source("vision_tower"),
        ln_vision=ln_vision,
        ln_source=qformer_source,
        trained=trained_tower,
    )
    projection = {
        f"projection.{n}.{name}": tensor
        for n, prefix in enumerate(_PROJECTIONS)
        for name, tensor in take_prefix(stage, prefix).items()
    }
    connector = Part(
        name="Q-Former",
        source=qformer_source,
        module_class=QFormerConnector,
        config={
            "config": qformer_config(
                vision.hidden_size, config.qformer_config, where=f"{config.source}: qformer_config"
            ),
            "num_query_tokens": config.num_query_tokens,
            "text_width": llm.config.hidden_size,
            "inner_width": _inner_width(projection),
        },
        tensors=qformer_tensors(frozen, stage) | projection,
        hint="Are these the Q-Former, stage file and Phi-2 of one TinyGPT-V?",
        released=lambda name: _in_connector(name, qformer_source=qformer_source, stage_source=source),
    )
    check_nothing_left(frozen | stage, source=source)
    return {"vision_tower": tower, "connector": connector, "language_model": llm}


def _inner_width(projection: Tensors) -> int:
    """What most of the tensors at both sides of the inner width say: a single wrong one is found by its size then."""
    sides = (("0.weight", 0), ("0.bias", 0), ("1.weight", 1))
    tensors = ((projection.get(f"projection.{name}"), side) for name, side in sides)
    return mode([t.shape[side] for t, side in tensors if t is not None and t.dim() > side] or [0])


def _in_connector(name: str, *, qformer_source: str, stage_source: str) -> Origin:
    for n, prefix in enumerate(_PROJECTIONS):
        if name.startswith(f"projection.{n}."):
            return Origin(stage_source, name.replace(f"projection.{n}.", prefix))
    return Origin(qformer_source, released_in_qformer(name))


def _language_model_part(config: Config, files: ReleasedFiles, stage: Tensors) -> Part:
    """Phi-2 with the stage's norms and LoRA (both taken out of `stage`)."""
    source, stage_source = files.source("language_model"), files.source("checkpoint")
    values = files.config_values("language_model")
    if values.get("model_type") not in ("phi", "phi-msft", "mixformer-sequential"):
        raise ConfigError(f"{source}: TinyGPT-V needs Phi-2, found {values.get('model_type')!r}; use microsoft/phi-2.")
    with as_config_error(f"{source}/config.json"):
        phi = phi_config(values)
    base = rename(files.tensors("language_model"), (_PHI_BUFFERS,))
    tensors = split_qkv_layout(base, phi, source=source)
    lora = _stage_lora(config, files, stage, phi)
    norms = take_prefix(stage, "llm.")
    tensors |= norms
    for layer in range(phi.num_hidden_layers):
        for norm in ("q_layernorm", "k_layernorm"):
            # No file holds these biases: they were frozen at zero and so never saved.
            name = f"model.layers.{layer}.self_attn.{norm}"
            tensors.setdefault(f"{name}.bias", torch.zeros(phi.hidden_size // phi.num_attention_heads))
    needed = {f"model.layers.{n}.{name}.weight" for n in range(phi.num_hidden_layers) for name in _STAGE_NORMS}
    for name in needed | {"model.final_layernorm.weight"}:
        if name not in norms:
            tensors.pop(name, None)  # Phi-2's own would be silently wrong: the stage trained them
    prefix = _LLM_PREFIX if lora is not None else _BARE_LLM_PREFIX

    def origin(name: str) -> Origin:
        if name in needed or name == "model.final_layernorm.weight":
            return Origin(stage_source, prefix + name)
        return Origin(source, released_in_phi(name, base, phi))

    return Part(
        name="language model",
        source=source,
        module_class=PostNormPhiForCausalLM,
        config=phi,
        tensors=tensors,
        lora=lora,
        is_quantizable=True,
        hint=f"Is {source} Phi-2, and {stage_source} a TinyGPT-V stage file?",
        released=origin,
    )


def _stage_lora(config: Config, files: ReleasedFiles, stage: Tensors, phi: PhiConfig) -> Lora | None:
    """The stage's LoRA, taken out of it. Raises CheckpointMismatch for one that is not whole, or not there."""
    source = files.source("checkpoint")
    alpha = trained_alpha(files, config.lora_alpha, where=str(config.source))
    lora = take_lora(stage, prefix="llm.", alpha=alpha)
    if lora is None:
        is_peft = any(name.startswith(_LLM_PREFIX) for name in files.tensors("checkpoint"))
        if is_peft or config.lora_rank is not None:
            why = f"lora_rank is {config.lora_rank}" if config.lora_rank is not None else "its names are those of LoRA"
            raise CheckpointMismatch(
                f"{source} has no LoRA tensors ({_LLM_PREFIX}….lora_A.weight), although {why}; "
                "delete it and download it again."
            )
        return None
    check_lora_rank(lora, config.lora_rank, source=source)
    check_lora_targets(lora, LORA_TARGETS, num_layers=phi.num_hidden_layers, prefix=_LLM_PREFIX, source=source)
    return split_lora(lora, phi)


def split_lora(lora: Lora, config: PhiConfig) -> Lora:
    """LoRA of the fused `query_key_value` as three that share A; rows of B are split like the rows of the weight."""
    pairs = {}
    for name, (lora_a, lora_b) in lora.pairs.items():
        if "query_key_value" not in name:
            pairs[name] = (lora_a, lora_b)
            continue
        shape = (3 * int(config.hidden_size), lora.rank)
        check_size(lora_b, shape, owner="language model", default=Origin("LoRA", name))
        rows = made_from(lora_b, *split_interleaved(lora_b, config.num_attention_heads))
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
    return assemble_minigpt(
        config,
        modules,
        tokenizer=tokenizer,
        prompt_format=prompt_format,
        tasks=tasks,
        num_image_tokens=config.num_query_tokens,
        eos_token_ids=(tokenizer.token_id(END_OF_ANSWER),),
        penalised_ids=(tokenizer.bos_token_id,),
    )
