"""Tiny base language models in the formats of their makers, for stages that start from nothing."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import MixtralConfig, MixtralForCausalLM

from models.families import mini_gemini, moe_llava
from models.formats.llava import FORMATS
from models.tensors.weights import Tensors, read_tensors
from tests.models.families.sparse_reference import write_openchat, write_qwen
from tests.training.tiny_stages import GOLDENS
from training.stages.retrained_folder import unstack

MGM = {name: GOLDENS / f"mgm-{name}" / "weights" / "work_dirs" / "MGM" / f"MGM-{name.upper()}" for name in ("2b", "7b")}
CLIP = GOLDENS / "moe-llava-phi2" / "weights" / "openai" / "clip-vit-large-patch14-336"
SIGLIP = GOLDENS / "moe-llava-stablelm-384" / "weights" / "google" / "siglip-so400m-patch14-384"


def mgm_towers(size: str) -> dict[str, str]:
    """Both base towers of an MGM case, as keys of a recipe's `model`."""
    clip, convnext = sorted((GOLDENS / f"mgm-{size}" / "weights" / "model_zoo" / "OpenAI").iterdir())
    return {"vision_tower": str(clip), "vision_tower_aux": str(convnext)}


def write_base(kind: str, folder: Path) -> Path:
    """The base language model `kind`: gemma, llama, llama3, mixtral; phi, stablelm, qwen or openchat."""
    _WRITERS[kind](folder)
    return folder


def _gemma(folder: Path) -> None:
    _without_pictures(MGM["2b"], folder, model_type="gemma", architectures=["GemmaForCausalLM"])


def _llama(folder: Path) -> None:
    _without_pictures(MGM["7b"], folder, model_type="llama", architectures=["LlamaForCausalLM"])


def _llama3(folder: Path) -> None:
    """Vicuna's weights with a byte-level tokenizer that has LLaMA-3's special tokens, and a piece for every row."""
    _llama(folder)
    num_rows = json.loads((folder / "config.json").read_text())["vocab_size"]
    for file in folder.glob("*token*"):
        file.unlink()
    letters = {letter: n for n, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=letters, merges=[]))
    special = [piece for piece in FORMATS["llama_3"].reserved if piece.startswith("<|")]
    tokenizer.add_special_tokens(special)
    num_reserved = num_rows - tokenizer.get_vocab_size()
    tokenizer.add_special_tokens([f"<|reserved_special_token_{n}|>" for n in range(num_reserved)])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    begin = "<|begin_of_text|>"
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A", special_tokens=[(begin, tokenizer.token_to_id(begin))]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    values = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": begin, "eos_token": "<|eot_id|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(values | {"pad_token": "<|end_of_text|>"}))
    ids = {"bos_token_id": tokenizer.token_to_id(begin), "eos_token_id": tokenizer.token_to_id("<|eot_id|>")}
    _change_config(folder, ids)


def _mixtral(folder: Path) -> None:
    """Random weights by the released names: one tensor for each expert's w1, w2 and w3."""
    _llama(folder)
    (folder / "model.safetensors").unlink()
    torch.manual_seed(0)
    values = {
        "model_type": "mixtral", "architectures": ["MixtralForCausalLM"], "vocab_size": 450, "hidden_size": 64,
        "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "num_local_experts": 4, "num_experts_per_tok": 2, "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    state = MixtralForCausalLM(MixtralConfig.from_dict(values)).state_dict()
    tensors = unstack(state, {".block_sparse_moe.": None})
    save_file({name: (tensor * 5).contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(values))


def _without_pictures(source: Path, folder: Path, **values: Any) -> None:
    """The language model of an MGM folder alone, as its base model is published."""
    folder.mkdir(parents=True)
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("*.safetensors*", "config.json"), dirs_exist_ok=True)
    tensors = read_tensors(source)
    mini_gemini.take_visual(tensors)
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, folder / "model.safetensors")
    old = json.loads((source / "config.json").read_text())
    own = {key: value for key, value in old.items() if not key.startswith(("mm_", "image_", "tokenizer_"))}
    (folder / "config.json").write_text(json.dumps(own | values))


def _dense(source: Path, folder: Path, model_type: str) -> None:
    """The dense language model that a MoE-LLaVA folder's first experts make."""
    folder.mkdir(parents=True, exist_ok=True)
    ignored = shutil.ignore_patterns("*.safetensors*", "*.bin*", "config.json")
    if source != folder:
        shutil.copytree(source, folder, ignore=ignored, dirs_exist_ok=True)
    tensors = dict(read_tensors(source))
    moe_llava.take_visual(tensors)
    dense: Tensors = {}
    for name, tensor in tensors.items():
        expert = re.search(r"deepspeed_moe\.(?:experts\.deepspeed_experts\.(\d+)\.|gate)", name)
        if expert is None or expert[1] == "0":
            dense[name.replace("deepspeed_moe.experts.deepspeed_experts.0.", "")] = tensor.clone()
    old = json.loads((source / "config.json").read_text())
    own = {key: value for key, value in old.items() if not key.startswith(("mm_", "image_", "moe", "architectures"))}
    save_file(dense, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(own | {"model_type": model_type}))


def _qwen(folder: Path) -> None:
    write_qwen(folder, {"moe_layers_idx": [], "num_experts": []})
    _dense(folder, folder, "qwen")


def _openchat(folder: Path) -> None:
    write_openchat(folder, MGM["7b"] / "tokenizer.model")
    _dense(folder, folder, "mistral")


def _change_config(folder: Path, values: dict[str, Any]) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


_WRITERS = {
    "gemma": _gemma,
    "llama": _llama,
    "llama3": _llama3,
    "mixtral": _mixtral,
    "phi": lambda folder: _dense(next((GOLDENS / "moe-llava-phi2" / "weights").glob("MoE*")), folder, "phi"),
    "stablelm": lambda f: _dense(next((GOLDENS / "moe-llava-stablelm" / "weights").glob("MoE*")), f, "stablelm_epoch"),
    "qwen": _qwen,
    "openchat": _openchat,
}
