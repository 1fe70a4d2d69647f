"""Trained modules -> the released file formats (the names are those of LAVIS and peft 0.2).

Raises TrainingDiverged, and writes nothing, for tensors that hold NaN or infinity, which fp16 makes of all above 65504.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedModel

from models.parts.connectors import QFormerConnector
from training.step_watch import refuse_non_finite
from training.tiny.networks import LoraLinear, part_of
from training.tiny.tokenizer import write_tokenizer_configs

_EVA_NAMES = (
    (r"^embeddings\.class_embedding$", "cls_token"),
    (r"^embeddings\.position_embedding$", "pos_embed"),
    (r"^embeddings\.patch_embedding\.", "patch_embed.proj."),
    (r"^encoder\.layers\.(\d+)\.layer_norm([12])\.", r"blocks.\1.norm\2."),
    (r"^encoder\.layers\.(\d+)\.self_attn\.projection\.", r"blocks.\1.attn.proj."),
    (r"^encoder\.layers\.(\d+)\.self_attn\.", r"blocks.\1.attn."),
    (r"^encoder\.layers\.(\d+)\.mlp\.", r"blocks.\1.mlp."),
)
_QFORMER_NAMES = (
    (r"^layernorm\.", "embeddings.LayerNorm."),
    (r"attention\.attention\.", "attention.self."),
)


def export_vision_tower(tower: nn.Module, path: Path) -> None:
    """`eva_vit_g.pth`: a bare fp16 state dict without `ln_vision`; the fused bias becomes q_bias and v_bias."""
    released: dict[str, Tensor] = {}
    for name, tensor in tower.state_dict().items():
        if name.startswith("post_layernorm."):
            continue
        released_name = _rename(name, _EVA_NAMES)
        if released_name.endswith("attn.qkv.bias"):
            q_bias, _, v_bias = tensor.chunk(3)  # EVA has no key bias; training keeps it at zero
            released[released_name.replace("qkv.bias", "q_bias")] = q_bias.half().clone()
            released[released_name.replace("qkv.bias", "v_bias")] = v_bias.half().clone()
        else:
            released[released_name] = tensor.half()
    refuse_non_finite(released, path)
    torch.save(released, path)


def export_qformer(connector: QFormerConnector, tower: nn.Module, path: Path) -> None:
    """The BLIP-2 file, {"model": query_tokens, Qformer.bert.*, ln_vision.*}, in fp16 to keep it small."""
    released = {"query_tokens": connector.query_tokens.detach()}
    for name, tensor in connector.qformer.state_dict().items():
        released["Qformer.bert." + _rename(name, _QFORMER_NAMES)] = tensor
    for name, tensor in part_of(tower.state_dict(), "post_layernorm.").items():
        released[f"ln_vision.{name}"] = tensor
    write_stage_file({name: tensor.half() for name, tensor in released.items()}, path)


def export_stage_checkpoint(connector: nn.Module, decoder: PreTrainedModel, path: Path) -> None:
    """The MiniGPT checkpoint, {"model": llama_proj.* and, where the decoder has it, LoRA}, in fp32."""
    projection = part_of(connector.state_dict(), "projection.")
    released = {f"llama_proj.{name}": tensor.clone() for name, tensor in projection.items()}
    for name, module in decoder.named_modules():
        if isinstance(module, LoraLinear):
            prefix = f"llama_model.base_model.model.{name}."
            released[f"{prefix}lora_A.weight"] = module.lora_a.detach().clone()
            released[f"{prefix}lora_B.weight"] = module.lora_b.detach().clone()
    write_stage_file(released, path)


def write_stage_file(tensors: dict[str, Tensor], path: Path) -> None:
    """{"model": tensors}, as LAVIS writes checkpoints."""
    refuse_non_finite(tensors, path)
    torch.save({"model": tensors}, path)


def write_folder_weights(tensors: dict[str, Tensor], folder: Path) -> None:
    """`model.safetensors` in a transformers folder, in fp16."""
    weights = {name: tensor.detach().half().contiguous() for name, tensor in tensors.items()}
    refuse_non_finite(weights, folder / "model.safetensors")
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def export_language_model(decoder: PreTrainedModel, tokenizer_model: Path, folder: Path) -> None:
    """A Llama folder as on the hub: config, fp16 weights without LoRA, sentencepiece tokenizer."""
    weights = {name: tensor for name, tensor in decoder.state_dict().items() if "lora_" not in name}
    write_folder_weights(weights, folder)
    decoder.config.dtype = torch.float16
    decoder.config.architectures = ["LlamaForCausalLM"]
    decoder.config.save_pretrained(folder)
    GenerationConfig(bos_token_id=1, eos_token_id=2, do_sample=False).save_pretrained(folder)
    if tokenizer_model.resolve() != (folder / "tokenizer.model").resolve():
        shutil.copyfile(tokenizer_model, folder / "tokenizer.model")
    write_tokenizer_configs(folder)


def copy_files(source: Path, folder: Path) -> None:
    """Copy all files of one folder into another."""
    for path in source.iterdir():
        shutil.copyfile(path, folder / path.name)


def _rename(name: str, rules: tuple[tuple[str, str], ...]) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name
