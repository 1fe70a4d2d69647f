"""Tiny Mini-Gemini models with random weights in the released formats, in every form that releases have.

P patches along one side of a CLIP view, S high-resolution positions along one side of a patch.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from torch import Tensor

P, S = 2, 4
CLIP: dict[str, Any] = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 28,
    "patch_size": 14,
}  # fmt: skip
STAGES = {"dims": (4, 6, 8, 10), "depths": (1, 1, 2, 1)}
HIDDEN, INNER, LAYERS, HEADS, KV_HEADS = 32, 40, 3, 4, 2
EXPERTS = 4
LLAMA_3_SPECIAL = (
    "<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>", "<|start_header_id|>", "<|end_header_id|>",
    "<|eot_id|>",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Form:
    """One form of released model: its language model's own values of config.json, and whether it is an HD one."""

    tokenizer: str  # "sentencepiece" or "bytes"
    is_hd: bool = False
    is_sparse: bool = False
    values: dict[str, Any] = field(default_factory=dict)
    tokenizer_values: dict[str, Any] = field(default_factory=dict)
    added: tuple[str, ...] = ()

    @property
    def grid(self) -> int:
        return 2 if self.is_hd else 1


def write_model(folder: Path, form: Form, tokenizer_model: Path, *, seed: int = 0) -> dict[str, Tensor]:
    """A released folder with random weights, and `config.yaml` beside it; returns the weights by released name."""
    torch.manual_seed(seed)
    folder.mkdir(parents=True)
    rows = _write_tokenizer(folder, form, tokenizer_model)
    values = {
        "hidden_size": HIDDEN, "intermediate_size": INNER, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS, "vocab_size": rows, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": 2, "mm_vision_tower": "model_zoo/OpenAI/clip",
        "mm_vision_tower_aux": "model_zoo/OpenAI/convnext", "image_size_aux": form.grid * P * 4 * S,
        "image_grid": form.grid, "image_global": form.is_hd, "image_aspect_ratio": "pad",
        "tokenizer_model_max_length": 4096 if form.is_hd else 2048, **form.values,
    }  # fmt: skip
    if form.is_sparse:
        values |= {"num_local_experts": EXPERTS, "num_experts_per_tok": 2}
    (folder / "config.json").write_text(json.dumps(values))
    tensors = _language_model(rows, is_sparse=form.is_sparse) | _clip() | _convnext() | _connector()
    save_file(tensors, folder / "model.safetensors")
    yaml = f"family: mini_gemini\nlanguage_model: {folder.name}\nvision_config: {json.dumps(CLIP)}\n"
    (folder.parent / "config.yaml").write_text(yaml)
    return tensors


def _write_tokenizer(folder: Path, form: Form, tokenizer_model: Path) -> int:
    """Its files; returns how many ids there are."""
    if form.tokenizer == "sentencepiece":
        shutil.copy(tokenizer_model, folder / "tokenizer.model")
        names = dict(enumerate(("<unk>", "<s>", "</s>"))) | dict(enumerate(form.added, start=450))
        added = {
            str(n): {"content": name, "special": True, "lstrip": False, "rstrip": False, "normalized": False}
            for n, name in names.items()
        }
        settings: dict[str, Any] = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>"}
        settings |= {"unk_token": "<unk>", "pad_token": "<unk>"}
        settings |= {"legacy": False, "add_bos_token": True, **form.tokenizer_values}
        (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"added_tokens_decoder": added}))
        return 450 + len(form.added)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: n for n, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(LLAMA_3_SPECIAL))
    begin = "<|begin_of_text|>"
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A", special_tokens=[(begin, tokenizer.token_to_id(begin))]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": begin, "eos_token": "<|end_of_text|>"}
    settings |= {"pad_token": "<|reserved_special_token_0|>", "unk_token": "<|reserved_special_token_0|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return tokenizer.get_vocab_size()


def _random(*shape: int) -> Tensor:
    """Rows of about unit length, so that nothing grows or shrinks much on its way."""
    return torch.randn(*shape) * (shape[-1] ** -0.5 if len(shape) > 1 else 0.3)


def _linear(name: str, before: int, after: int) -> dict[str, Tensor]:
    return {f"{name}.weight": _random(after, before), f"{name}.bias": _random(after)}


def _norm(name: str, width: int) -> dict[str, Tensor]:
    return {f"{name}.weight": 1 + _random(width), f"{name}.bias": _random(width)}


def _language_model(rows: int, *, is_sparse: bool) -> dict[str, Tensor]:
    tensors = {"model.embed_tokens.weight": torch.randn(rows, HIDDEN), "lm_head.weight": torch.randn(rows, HIDDEN)}
    tensors["model.norm.weight"] = 1 + _random(HIDDEN)
    kv_width = HIDDEN // HEADS * KV_HEADS
    for layer in range(LAYERS):
        name = f"model.layers.{layer}"
        tensors |= {f"{name}.{n}_layernorm.weight": 1 + _random(HIDDEN) for n in ("input", "post_attention")}
        widths = {"q": HIDDEN, "k": kv_width, "v": kv_width, "o": HIDDEN}
        tensors |= {f"{name}.self_attn.{n}_proj.weight": _random(width, HIDDEN) for n, width in widths.items()}
        sizes = {"gate": (INNER, HIDDEN), "up": (INNER, HIDDEN), "down": (HIDDEN, INNER)}
        if not is_sparse:
            tensors |= {f"{name}.mlp.{n}_proj.weight": _random(*size) for n, size in sizes.items()}
            continue
        tensors[f"{name}.block_sparse_moe.gate.weight"] = _random(EXPERTS, HIDDEN)
        for expert in range(EXPERTS):
            inside = f"{name}.block_sparse_moe.experts.{expert}"
            tensors |= {f"{inside}.{w}.weight": _random(*sizes[n]) for w, n in zip(("w1", "w3", "w2"), sizes)}  # noqa: B905
    return tensors


def _clip() -> dict[str, Tensor]:
    width, inner = CLIP["hidden_size"], CLIP["intermediate_size"]
    base = "model.vision_tower.vision_tower.vision_model"
    tensors = {
        f"{base}.embeddings.class_embedding": _random(width),
        f"{base}.embeddings.patch_embedding.weight": torch.randn(width, 3, 14, 14) * 0.05,
        f"{base}.embeddings.position_embedding.weight": _random(P * P + 1, width),
        **_norm(f"{base}.pre_layrnorm", width),
        **_norm(f"{base}.post_layernorm", width),
    }
    for layer in range(CLIP["num_hidden_layers"]):
        name = f"{base}.encoder.layers.{layer}"
        for n in ("q", "k", "v", "out"):
            tensors |= _linear(f"{name}.self_attn.{n}_proj", width, width)
        tensors |= _norm(f"{name}.layer_norm1", width) | _norm(f"{name}.layer_norm2", width)
        tensors |= _linear(f"{name}.mlp.fc1", width, inner) | _linear(f"{name}.mlp.fc2", inner, width)
    return tensors


def _convnext() -> dict[str, Tensor]:
    base, before = "model.vision_tower_aux", STAGES["dims"][0]
    tensors = {f"{base}.vision_stem.0.weight": torch.randn(before, 3, 4, 4) * 0.2}
    tensors |= {f"{base}.vision_stem.0.bias": _random(before), **_norm(f"{base}.vision_stem.1", before)}
    for stage, (width, depth) in enumerate(zip(*STAGES.values(), strict=True)):
        name = f"{base}.vision_stages.{stage}"
        if stage:
            tensors |= _norm(f"{name}.downsample.0", before)
            tensors[f"{name}.downsample.1.weight"] = torch.randn(width, before, 2, 2) * 0.3
            tensors[f"{name}.downsample.1.bias"] = _random(width)
        for block in range(depth):
            inside = f"{name}.blocks.{block}"
            tensors[f"{inside}.conv_dw.weight"] = torch.randn(width, 1, 7, 7) * 0.2
            tensors |= {f"{inside}.conv_dw.bias": _random(width), f"{inside}.gamma": _random(width)}
            tensors |= _norm(f"{inside}.norm", width)
            tensors |= _linear(f"{inside}.mlp.fc1", width, 4 * width) | _linear(f"{inside}.mlp.fc2", 4 * width, width)
        before = width
    return tensors


def _connector() -> dict[str, Tensor]:
    width, aux = CLIP["hidden_size"], sum(STAGES["dims"])
    tensors = _linear("model.mm_projector.0", width, HIDDEN) | _linear("model.mm_projector.2", HIDDEN, HIDDEN)
    for name, before in (("query", width), ("aux", aux), ("val", aux)):
        tensors |= _norm(f"model.vlm_uni_{name}_projector.0", before)
        tensors |= _linear(f"model.vlm_uni_{name}_projector.1", before, width)
    return tensors
