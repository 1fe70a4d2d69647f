"""A tiny MoE-LLaVA over Qwen-1 in the released formats, and what it must compute, by loops over tokens and experts."""

from __future__ import annotations

import base64
import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from sentencepiece import SentencePieceProcessor
from torch import Tensor
from transformers import CLIPVisionConfig, CLIPVisionModel

from models.parts.sparse_decoders import SparseMistralConfig, SparseMistralForCausalLM
from models.parts.sparse_moe import SparseLayers
from training.stages.sparse_export import released_language_tensors

HIDDEN, INNER, HEADS, LAYERS = 32, 40, 2, 4
TOWER: dict[str, Any] = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
    "image_size": 28, "patch_size": 14,
}  # fmt: skip
WORDS = ("USER", "ASSISTANT", " the", " image", " a", "it", "is", "th", "er", " t", "he", "in", "at", " i")


def write_qwen(folder: Path, moe: dict[str, Any], *, seed: int = 0) -> dict[str, Tensor]:
    """A released folder with random weights; returns them. `moe` is config.json's entry."""
    torch.manual_seed(seed)
    ranks = [bytes([n]) for n in range(256)] + [word.encode() for word in _closed(WORDS)]
    lines = (base64.b64encode(token) + f" {rank}".encode() for rank, token in enumerate(ranks))
    folder.mkdir(parents=True)
    (folder / "qwen.tiktoken").write_bytes(b"\n".join(lines) + b"\n")
    rows = len(ranks) + 208 + 24  # 208 special tokens, and rows that no piece has
    values = {
        "model_type": "moe_llava_qwen", "hidden_size": HIDDEN, "intermediate_size": 2 * INNER, "vocab_size": rows,
        "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "kv_channels": HIDDEN // HEADS,
        "layer_norm_epsilon": 1e-6, "rotary_emb_base": 10000, "no_bias": True, "rotary_pct": 1.0, "moe": moe,
        "mm_vision_select_layer": -2, "mm_vision_select_feature": "patch", "image_aspect_ratio": "pad",
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(values))
    tensors = _tower("transformer")
    tensors |= {f"transformer.{name}": value for name, value in _decoder(rows, moe).items()}
    tensors["lm_head.weight"] = tensors.pop("transformer.lm_head.weight")
    save_file(tensors, folder / "model.safetensors")
    _write_yaml(folder)
    return tensors


def write_openchat(folder: Path, tokenizer_model: Path, *, seed: int = 0) -> None:
    """A released OpenChat folder with random weights; its last two of four layers have experts."""
    torch.manual_seed(seed)
    folder.mkdir(parents=True)
    (folder / "tokenizer.model").write_bytes(tokenizer_model.read_bytes())
    first = int(SentencePieceProcessor(model_file=str(tokenizer_model)).vocab_size())
    added = {str(first): {"content": "<|end_of_turn|>"}, str(first + 1): {"content": "<|pad_0|>"}}
    settings = {"legacy": True, "eos_token": "<|end_of_turn|>", "added_tokens_decoder": added}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    moe = {"moe_layers_idx": [2, 3], "num_experts": [4, 4], "eval_capacity_factor": 2.0}
    sizes: dict[str, Any] = {
        "hidden_size": HIDDEN, "intermediate_size": INNER, "num_hidden_layers": LAYERS, "num_attention_heads": 4,
        "num_key_value_heads": 2, "vocab_size": first + 2,
    }  # fmt: skip
    values = {**sizes, "model_type": "moe_llava_mistral", "sliding_window": 4096, "moe": moe}
    (folder / "config.json").write_text(json.dumps(values))
    layers = SparseLayers(indices=(2, 3), num_experts=(4, 4), eval_capacity_factor=2.0)
    config = SparseMistralConfig(**sizes, initializer_range=0.3)
    config.sparse_layers = dataclasses.asdict(layers)
    decoder = SparseMistralForCausalLM(config)
    tensors = released_language_tensors(decoder, decoder.state_dict())
    rows = {name: torch.randn_like(value) for name, value in tensors.items() if name.endswith("gate.wg.weight")}
    connector = {f"model.{n}": v for n, v in _decoder(1, moe).items() if n.startswith("mm_projector")}
    tensors |= rows | connector
    save_file({n: value.contiguous() for n, value in (tensors | _tower("model")).items()}, folder / "model.safetensors")
    _write_yaml(folder)


def _tower(base: str) -> dict[str, Tensor]:
    tower = CLIPVisionModel(CLIPVisionConfig(**TOWER)).state_dict()
    return {f"{base}.image_tower.image_tower.vision_model.{name}": value for name, value in tower.items()}


def _write_yaml(folder: Path) -> None:
    (folder.parent / "config.yaml").write_text(
        f"family: moe_llava\nlanguage_model: {folder.name}\nvision_config: {json.dumps(TOWER)}\n"
    )


def _closed(words: tuple[str, ...]) -> list[str]:
    """The words, each after the prefixes that it is merged from."""
    closed: list[str] = []
    for word in words:
        closed += [word[:n] for n in range(2, len(word) + 1) if word[:n] not in closed]
    return closed


def _decoder(rows: int, moe: dict[str, Any]) -> dict[str, Tensor]:
    def random(*shape: int, scale: float = 0.25) -> Tensor:
        return torch.randn(*shape) * scale

    tensors = {"wte.weight": random(rows, HIDDEN, scale=1.0), "lm_head.weight": random(rows, HIDDEN, scale=1.0)}
    tensors["ln_f.weight"] = 1 + random(HIDDEN)
    for number, (before, after) in ((0, (16, HIDDEN)), (2, (HIDDEN, HIDDEN))):
        tensors[f"mm_projector.image_spatial_proj.{number}.weight"] = random(after, before)
        tensors[f"mm_projector.image_spatial_proj.{number}.bias"] = random(after)
    for layer in range(LAYERS):
        name = f"h.{layer}"
        tensors |= {f"{name}.ln_{n}.weight": 1 + random(HIDDEN) for n in (1, 2)}
        tensors[f"{name}.attn.c_attn.weight"] = random(3 * HIDDEN, HIDDEN)
        tensors[f"{name}.attn.c_attn.bias"] = random(3 * HIDDEN)
        tensors[f"{name}.attn.c_proj.weight"] = random(HIDDEN, HIDDEN)
        copies = [f"{name}.mlp."]
        if layer in moe["moe_layers_idx"]:
            count = moe["num_experts"][moe["moe_layers_idx"].index(layer)]
            copies = [f"{name}.mlp.deepspeed_moe.experts.deepspeed_experts.{n}." for n in range(count)]
            tensors[f"{name}.mlp.deepspeed_moe.gate.wg.weight"] = random(count, HIDDEN)
            if moe.get("use_residual"):
                copies.append(f"{name}.mlp.mlp.")
                tensors[f"{name}.mlp.coefficient.weight"] = random(2, HIDDEN)
                tensors[f"{name}.mlp.coefficient.bias"] = random(2)
        for copy in copies:
            tensors |= {f"{copy}{w}.weight": random(INNER, HIDDEN) for w in ("w1", "w2")}
            tensors[f"{copy}c_proj.weight"] = random(HIDDEN, INNER)
    return tensors


def reference_logits(tensors: dict[str, Tensor], embeds: Tensor, moe: dict[str, Any], *, factor: float) -> Tensor:
    """Embeddings [L, H] -> logits [L, rows], with the capacity factor `factor`."""
    states = embeds
    for layer in range(LAYERS):
        name = f"transformer.h.{layer}"
        states = states + _attention(tensors, name, _norm(states, tensors[f"{name}.ln_1.weight"]))
        normed = _norm(states, tensors[f"{name}.ln_2.weight"])
        if layer in moe["moe_layers_idx"]:
            states = states + _experts(tensors, f"{name}.mlp", normed, moe, factor)
        else:
            states = states + _feed_forward(tensors, f"{name}.mlp", normed)
    return _norm(states, tensors["transformer.ln_f.weight"]) @ tensors["lm_head.weight"].T


def _norm(states: Tensor, weight: Tensor) -> Tensor:
    return weight * states / (states.square().mean(-1, keepdim=True) + 1e-6).sqrt()


def _feed_forward(tensors: dict[str, Tensor], name: str, states: Tensor) -> Tensor:
    gate = states @ tensors[f"{name}.w2.weight"].T
    inner = (states @ tensors[f"{name}.w1.weight"].T) * gate * gate.sigmoid()
    return inner @ tensors[f"{name}.c_proj.weight"].T


def _attention(tensors: dict[str, Tensor], name: str, states: Tensor) -> Tensor:
    length, width = len(states), HIDDEN // HEADS
    joint = states @ tensors[f"{name}.attn.c_attn.weight"].T + tensors[f"{name}.attn.c_attn.bias"]
    queries, keys, values = (part.view(length, HEADS, width) for part in joint.split(HIDDEN, dim=-1))
    output = torch.zeros(length, HEADS, width)
    for head in range(HEADS):
        turned = torch.stack([_rotate(keys[n, head], n) for n in range(length)])
        for position in range(length):
            query = _rotate(queries[position, head], position)
            weights = (turned[: position + 1] @ query / math.sqrt(width)).softmax(0)
            output[position, head] = weights @ values[: position + 1, head]
    return output.flatten(1) @ tensors[f"{name}.attn.c_proj.weight"].T


def _rotate(vector: Tensor, position: int) -> Tensor:
    half = len(vector) // 2
    angles = position / 10000 ** (torch.arange(half) / half)
    first, second = vector[:half], vector[half:]
    return torch.cat((first * angles.cos() - second * angles.sin(), second * angles.cos() + first * angles.sin()))


def _experts(tensors: dict[str, Tensor], name: str, states: Tensor, moe: dict[str, Any], factor: float) -> Tensor:
    """Rule by rule: the likeliest expert, the next, places in token order, and weights of what is left."""
    router = tensors[f"{name}.deepspeed_moe.gate.wg.weight"]
    count = len(router)
    capacity = max(math.ceil(len(states) / count * 2 * factor), moe.get("min_capacity", 0))
    probabilities = [(router @ state).softmax(0).tolist() for state in states]
    ranked = [sorted(range(count), key=p.__getitem__, reverse=True) for p in probabilities]
    used = [0] * count
    places: list[dict[int, float]] = [{} for _ in states]
    for choice in (0, 1):
        for token, order in enumerate(ranked):
            expert = order[choice]
            if used[expert] < capacity:
                places[token][expert] = probabilities[token][expert]
            used[expert] += 1
    output = torch.zeros_like(states)
    for token, state in enumerate(states):
        total = sum(places[token].values())
        for expert, weight in places[token].items():
            part = _feed_forward(tensors, f"{name}.deepspeed_moe.experts.deepspeed_experts.{expert}", state)
            output[token] += weight / total * part
        if moe.get("use_residual"):
            shares = tensors[f"{name}.coefficient.weight"] @ state
            shares = (shares + tensors[f"{name}.coefficient.bias"]).softmax(0)
            output[token] = shares[0] * output[token] + shares[1] * _feed_forward(tensors, f"{name}.mlp", state)
    return output
