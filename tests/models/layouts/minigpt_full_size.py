"""Every released MiniGPT-4, MiniGPT-v2, TinyGPT-V and Mini-Gemini at full size: names and shapes on the meta device."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.released_files import LLAMA_7B, LLAMA_13B, PHI_2
from models.config import family_module, load_config
from models.family_config import FamilyConfig
from models.files.released import ReleasedFiles
from models.tensors.weights import Part, Tensors
from tests.paths import ROOT

LAYOUTS = ROOT / "tests" / "data" / "layouts"

LANGUAGE_MODELS = {
    "Vision-CAIR/vicuna-7b": LLAMA_7B | {"vocab_size": 32001},
    "Vision-CAIR/vicuna": LLAMA_13B | {"vocab_size": 32001},
    "meta-llama/Llama-2-7b-chat-hf": LLAMA_7B | {"vocab_size": 32000},
}
# YAML and the layout of its checkpoint; every layout is in here.
VARIANTS = {
    "minigpt4_vicuna0_7b": ["minigpt4/minigpt4_vicuna0_7b"],
    "minigpt4_vicuna0_13b": ["minigpt4/minigpt4_vicuna0_13b"],
    "minigpt4_llama2_7b": ["minigpt4/minigpt4_llama2_7b"],
    "minigpt_v2": ["minigpt4/minigpt_v2"],
    "minigpt_v2_stage2": ["minigpt4/minigpt_v2"],
    "minigpt_v2_stage3": ["minigpt4/minigpt_v2"],
    "tinygptv_stage1": [
        "tinygpt_v/TinyGPT-V_for_Stage1.pth",
        "tinygpt_v/TinyGPT-V_for_Stage1.pth.no-lora-variant",
    ],
    "tinygptv_stage2": ["tinygpt_v/TinyGPT-V_for_Stage2.pth"],
    "tinygptv_stage3": ["tinygpt_v/TinyGPT-V_for_Stage3.pth"],
    "tinygptv_stage4": [
        "tinygpt_v/TinyGPT-V_for_Stage4.pth",
        "tinygpt_v/TinyGPT-V_for_Stage4.pth.trained-qformer-variant",
    ],
}
# The language model's values in the config.json of the released MGM folders (the HD ones have the same tensors).
MGM = {
    "2b": {"hidden_size": 2048, "intermediate_size": 16384, "num_hidden_layers": 18, "num_attention_heads": 8,
           "num_key_value_heads": 1, "head_dim": 256, "vocab_size": 256000, "tie_word_embeddings": True},
    "7b": LLAMA_7B | {"vocab_size": 32000},
    "13b": LLAMA_13B | {"vocab_size": 32000},
    "8b": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
           "num_key_value_heads": 8, "vocab_size": 128256},
    "8x7b": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
             "num_key_value_heads": 8, "vocab_size": 32000, "num_local_experts": 8},
    "34b": {"hidden_size": 7168, "intermediate_size": 20480, "num_hidden_layers": 60, "num_attention_heads": 56,
            "num_key_value_heads": 8, "vocab_size": 64000},
}  # fmt: skip
VARIANTS |= {f"mgm_{size}": [f"mini_gemini/MGM-{size.upper().replace('X', 'x')}"] for size in MGM}
VARIANTS |= {f"mgm_{size}_hd": VARIANTS[f"mgm_{size}"] for size in MGM if size != "2b"}
# What each size's stage-1 file must fit: the language model of the whole folder, without its other tensors.
STAGE_1 = {size: f"mini_gemini/MGM-{size.upper().replace('X', 'x')}-Pretrain.mm_projector" for size in MGM}
TOWERS = {"mini_gemini/base.clip-vit-large-patch14-336", "mini_gemini/base.openclip-convnext-large-d-320"}
EVA = {"minigpt": "minigpt4/eva_vit_g", "tinygpt": "tinygpt_v/eva_vit_g.pth"}
BLIP2 = {"minigpt": "minigpt4/blip2_pretrained_flant5xxl", "tinygpt": "tinygpt_v/blip2_pretrained_flant5xxl.pth"}
PHI_2_FOLDER = "tinygpt_v/phi-2-fused-folder"


class LayoutFiles(ReleasedFiles):
    """Released files as names and shapes on the meta device."""

    def __init__(self, config: FamilyConfig, layouts: dict[str, str]) -> None:
        super().__init__(config)
        self.config, self.layouts = config, layouts

    @cached_property
    def adapter(self) -> Path | None:
        return None

    def source(self, key: str) -> str:
        return f"{key} ({getattr(self.config, key)})"

    def language_model_config(self, key: str) -> LlamaConfig:
        return LlamaConfig.from_dict(LANGUAGE_MODELS[getattr(self.config, key)])

    def path(self, key: str) -> Path:
        return Path("not on this machine") / key

    def config_values(self, key: str) -> dict[str, Any]:
        if (name := self.config.source.stem).startswith("mgm_"):
            hd = {"image_size_aux": 1536, "image_grid": 2, "image_global": True, "tokenizer_model_max_length": 4096}
            return MGM[name.split("_")[1]] | (hd if name.endswith("_hd") else {"image_size_aux": 768})
        assert getattr(self.config, key) == "microsoft/phi-2"
        return PHI_2

    def tensors(self, key: str) -> Tensors:
        if key == "language_model" and key not in self.layouts:
            with torch.device("meta"):
                return dict(LlamaForCausalLM(self.language_model_config(key)).state_dict())
        return layout_tensors(self.layouts[key])


def layout_tensors(layout: str) -> Tensors:
    """The names, shapes and types of a released file on the meta device."""
    shapes = json.loads((LAYOUTS / f"{layout}.json").read_text())
    return {
        name: torch.empty(shape, dtype=getattr(torch, dtype), device="meta") for name, (shape, dtype) in shapes.items()
    }


def layouts_of(name: str, checkpoint: str) -> dict[str, str]:
    """The layout of the file under each key of a YAML; a Llama's is made from its sizes."""
    kind = name[:7]
    if kind.startswith("mgm"):
        return {"language_model": checkpoint}
    layouts = {"vision_tower": EVA[kind], "qformer": BLIP2[kind], "checkpoint": checkpoint}
    return {**layouts, "language_model": PHI_2_FOLDER} if kind == "tinygpt" else layouts


def parts_of(name: str, checkpoint: str) -> dict[str, Part]:
    config = load_config(ROOT / "eval_configs" / f"{name}.yaml")
    files = LayoutFiles(config, layouts_of(name, checkpoint))
    parts: dict[str, Part] = family_module(config.family, source=name).parts(config, files)
    return parts
