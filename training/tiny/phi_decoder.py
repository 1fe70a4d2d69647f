"""TinyGPT-V's Phi in small: built, given LoRA, and written as the fused folder and the stage file of the release."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, PhiConfig, PreTrainedModel

from models.parts.phi import PostNormPhiForCausalLM, join_interleaved
from training.tiny.export import write_folder_weights
from training.tiny.networks import DecoderShape, LoraLinear, init_vocabulary

PHI_LORA_RANK = 8
PHI_LORA_ALPHA = 16.0
_ATTENTION = ("q_proj", "k_proj", "v_proj")
_STAGE_NORMS = ("input_layernorm.weight", "post_layernorm.weight", "final_layernorm.weight")
_QK_NORMS = ("q_layernorm", "k_layernorm")


def build_phi(
    shape: DecoderShape, *, vocabulary_size: int, end_id: int, number_ids: list[int]
) -> PostNormPhiForCausalLM:
    """A small Phi with TinyGPT-V's norms. `number_ids` are the pieces "0" … "100"."""
    decoder = PostNormPhiForCausalLM(
        PhiConfig(
            vocab_size=vocabulary_size,
            hidden_size=shape.width,
            intermediate_size=shape.mlp_width,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            max_position_embeddings=2048,
            rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5},
            qk_layernorm=True,
            resid_pdrop=0.0,
            bos_token_id=end_id,
            eos_token_id=end_id,
            tie_word_embeddings=False,
        )
    )
    for name, parameter in decoder.named_parameters():
        if name.endswith(tuple(f"{norm}.bias" for norm in _QK_NORMS)):
            parameter.requires_grad_(False)  # no released file has them: they are zero
    init_vocabulary(decoder.model.embed_tokens, decoder.lm_head, number_ids)
    return decoder


def add_phi_lora(decoder: PostNormPhiForCausalLM) -> None:
    """LoRA on the fused query_key_value (q, k and v share A) and on `dense` of every layer, as TinyGPT-V has it."""
    for layer in decoder.model.layers:
        attention = layer.self_attn
        shared: nn.Parameter | None = None
        for name in (*_ATTENTION, "dense"):
            lora = LoraLinear(getattr(attention, name), PHI_LORA_RANK, PHI_LORA_ALPHA)
            if name in _ATTENTION:
                shared = lora.lora_a if shared is None else shared
                lora.lora_a = shared
            setattr(attention, name, lora)


def is_stage_tensor(name: str) -> bool:
    """Whether a decoder's parameter belongs to the stage file: LoRA and the weights of the norms."""
    is_qk_norm = name.endswith(tuple(f"{norm}.weight" for norm in _QK_NORMS))
    return "lora_" in name or name.endswith(_STAGE_NORMS) or is_qk_norm


def stage_tensors(decoder: PreTrainedModel) -> dict[str, Tensor]:
    """The decoder's part of a stage file, fp32, in the names of peft 0.2 over the fused layout."""
    released: dict[str, Tensor] = {}
    heads = decoder.config.num_attention_heads
    state = {name: tensor.detach().float() for name, tensor in decoder.state_dict().items() if is_stage_tensor(name)}
    for name, tensor in state.items():
        if "lora_" not in name:
            released[name] = tensor.clone()
        elif ".dense." in name:
            released[name.replace("lora_a", "lora_A.weight").replace("lora_b", "lora_B.weight")] = tensor.clone()
        elif name.endswith("q_proj.lora_a"):
            released[name.replace("q_proj.lora_a", "query_key_value.lora_A.weight")] = tensor.clone()
        elif name.endswith("q_proj.lora_b"):
            q, k, v = (state[name.replace("q_proj", projection)] for projection in _ATTENTION)
            released[name.replace("q_proj.lora_b", "query_key_value.lora_B.weight")] = join_interleaved(q, k, v, heads)
    return {f"llama_model.base_model.model.{name}": tensor for name, tensor in released.items()}


def export_phi_folder(decoder: PreTrainedModel, folder: Path) -> None:
    """The base model without LoRA and TinyGPT-V's norms, fused and fp16 as the release expects it."""
    heads = decoder.config.num_attention_heads
    state = {name: tensor.detach() for name, tensor in decoder.state_dict().items() if "lora_" not in name}
    weights: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if any(f".{norm}." in name for norm in (*_QK_NORMS, "post_layernorm")):
            continue
        if ".self_attn.q_proj." in name:
            q, k, v = (state[name.replace("q_proj", projection)] for projection in _ATTENTION)
            name, tensor = name.replace("q_proj", "query_key_value"), join_interleaved(q, k, v, heads)
        elif ".self_attn.k_proj." in name or ".self_attn.v_proj." in name:
            continue
        weights[name] = tensor.half().clone()
    write_folder_weights(weights, folder)
    config = PhiConfig.from_dict(decoder.config.to_dict())
    config.qk_layernorm = False  # the base model has none; TinyGPT-V adds them
    config.dtype = torch.float16
    config.architectures = ["PhiForCausalLM"]
    config.save_pretrained(folder)
    ids = {"bos_token_id": config.bos_token_id, "eos_token_id": config.eos_token_id}
    GenerationConfig(**ids, do_sample=False).save_pretrained(folder)
