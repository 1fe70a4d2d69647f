"""Every released MoE-LLaVA at full size, as names and shapes on the meta device."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from benchmarks.released_files import STABLELM
from models.config import family_module, load_config
from models.family_config import FamilyConfig
from models.files.released import ReleasedFiles
from models.tensors.weights import Part, Tensors
from tests.paths import ROOT

LAYOUTS = ROOT / "tests" / "data" / "layouts" / "moe_llava"

# The language model's values in config.json, from the public base models.
QWEN = {
    "model_type": "moe_llava_qwen", "hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 24,
    "num_attention_heads": 16, "kv_channels": 128, "vocab_size": 151936, "layer_norm_epsilon": 1e-6,
}  # fmt: skip
PHI2 = {
    "model_type": "moe_llava_phi", "hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 32,
    "num_attention_heads": 32, "vocab_size": 51200, "partial_rotary_factor": 0.4,
}  # fmt: skip
OPENCHAT = {
    "model_type": "moe_llava_mistral", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 32002, "sliding_window": 4096,
}  # fmt: skip
BACKBONES: dict[str, dict[str, Any]] = {"StableLM": STABLELM, "Qwen": QWEN, "Phi2": PHI2, "OpenChat": OPENCHAT}
# YAML -> layout, and billions of parameters without the tower as the paper states them.
VARIANTS = {
    "moe_llava_stablelm": ("MoE-LLaVA-StableLM-1.6B-4e", 2.9),
    "moe_llava_stablelm_384": ("MoE-LLaVA-StableLM-1.6B-4e-384", 2.9),
    "moe_llava_qwen": ("MoE-LLaVA-Qwen-1.8B-4e", 3.1),
    "moe_llava_phi2": ("MoE-LLaVA-Phi2-2.7B-4e", 5.3),
    "moe_llava_phi2_384": ("MoE-LLaVA-Phi2-2.7B-4e-384", 5.3),
    "moe_llava_openchat": ("MoE-LLaVA-OpenChat-7B-4e", 15.7),
    "moe_llava_stablelm_stage2": ("MoE-LLaVA-StableLM-Stage2", 1.6),
    "moe_llava_stablelm_384_stage2": ("MoE-LLaVA-StableLM-Stage2-384", 1.6),
    "moe_llava_qwen_stage2": ("MoE-LLaVA-Qwen-Stage2", 1.8),
    "moe_llava_phi2_stage2": ("MoE-LLaVA-Phi2-Stage2", 2.8),
    "moe_llava_phi2_384_stage2": ("MoE-LLaVA-Phi2-Stage2-384", 2.8),
}
# Stage-1 projector -> the stage-2 layout whose language model and tower it was trained for.
PROJECTORS = {
    "MoE-LLaVA-StableLM-Pretrain": "MoE-LLaVA-StableLM-Stage2",
    "MoE-LLaVA-StableLM-384-Pretrain": "MoE-LLaVA-StableLM-Stage2-384",
    "MoE-LLaVA-Qwen-Pretrain": "MoE-LLaVA-Qwen-Stage2",
    "MoE-LLaVA-Phi2-Pretrain": "MoE-LLaVA-Phi2-Stage2",
    "MoE-LLaVA-Phi2-384-Pretrain": "MoE-LLaVA-Phi2-Stage2-384",
}


def values_of(layout: str) -> dict[str, Any]:
    """What config.json says, as far as the loader reads it."""
    values = dict(next(values for name, values in BACKBONES.items() if name in layout))
    if "-4e" not in layout:
        return {**values, "model_type": values["model_type"].removeprefix("moe_")}
    layers = list(range(0, values["num_hidden_layers"], 2))
    return {**values, "moe": {"moe_layers_idx": layers, "num_experts": [4] * len(layers), "top_k_experts": 2}}


def layout_tensors(layout: str) -> Tensors:
    """The names, shapes and types of a released file on the meta device."""
    shapes = json.loads((LAYOUTS / f"{layout}.json").read_text())
    return {n: torch.empty(shape, dtype=getattr(torch, dtype), device="meta") for n, (shape, dtype) in shapes.items()}


class LayoutFiles(ReleasedFiles):
    """A released folder as names and shapes on the meta device."""

    def __init__(self, config: FamilyConfig, layout: str, projector: str | None = None) -> None:
        super().__init__(config)
        self.layout, self.projector = layout, projector

    @cached_property
    def adapter(self) -> Path | None:
        return None

    def path(self, key: str) -> Path:
        return Path("not on this machine") / key

    def config_values(self, key: str) -> dict[str, Any]:
        return values_of(self.layout)

    def tensors(self, key: str) -> Tensors:
        tensors = layout_tensors(self.layout if key == "language_model" else f"{self.projector}.mm_projector.bin")
        if self.projector is not None and key == "language_model":  # a base model has no projector yet
            tensors = {name: tensor for name, tensor in tensors.items() if ".mm_projector." not in name}
        return tensors


def parts_of(name: str, layout: str, projector: str | None = None, **changes: Any) -> dict[str, Part]:
    config = load_config(ROOT / "eval_configs" / f"{name}.yaml", [f"{key}={value}" for key, value in changes.items()])
    files = LayoutFiles(config, layout, projector)
    parts: dict[str, Part] = family_module(config.family, source=name).parts(config, files)
    return parts
