"""Every released variant at full size, on the meta device: each parameter has a tensor, each tensor a use."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from models.config import FamilyConfig, family_module, load_config
from models.devices import weight_bytes
from models.errors import CheckpointMismatch
from models.families import mini_gemini
from models.loader import check_parts
from models.parts.dual_vision import CONVNEXT_RULES
from models.parts.llava_vision import tower_part
from models.released import ReleasedFiles
from models.weights import Part, Tensors, rename
from tests.models.estimates import gibibytes_in_16_bit, printed_gibibytes

ROOT = Path(__file__).resolve().parents[2]
LAYOUTS = ROOT / "tests" / "data" / "layouts"

LLAMA_7B = {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32}
LLAMA_13B = {"hidden_size": 5120, "intermediate_size": 13824, "num_hidden_layers": 40, "num_attention_heads": 40}
LANGUAGE_MODELS = {
    "Vision-CAIR/vicuna-7b": LLAMA_7B | {"vocab_size": 32001},
    "Vision-CAIR/vicuna": LLAMA_13B | {"vocab_size": 32001},
    "meta-llama/Llama-2-7b-chat-hf": LLAMA_7B | {"vocab_size": 32000},
}
PHI_2 = {
    "model_type": "phi", "hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 32,
    "num_attention_heads": 32, "vocab_size": 51200, "partial_rotary_factor": 0.4, "tie_word_embeddings": False,
}  # fmt: skip
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
each_variant = pytest.mark.parametrize(
    ("name", "checkpoint"), [(name, layout) for name, layouts in VARIANTS.items() for layout in layouts]
)


class LayoutFiles(ReleasedFiles):
    """Released files as names and shapes on the meta device."""

    def __init__(self, config: FamilyConfig, layouts: dict[str, str]) -> None:
        super().__init__(config)
        self.config, self.layouts = config, layouts

    def source(self, key: str) -> str:
        return f"{key} ({getattr(self.config, key)})"

    def language_model_config(self, key: str) -> LlamaConfig:
        return LlamaConfig.from_dict(LANGUAGE_MODELS[getattr(self.config, key)])

    def path(self, key: str) -> Path:
        return Path("not on this machine") / key

    def config_values(self, key: str) -> dict[str, Any]:
        if (name := self.config.source.stem).startswith("mgm_"):
            hd = {"image_size_aux": 1536, "image_grid": 2, "image_global": True}
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


@each_variant
def test_released_variant_is_complete(name: str, checkpoint: str) -> None:
    check_parts(parts_of(name, checkpoint))


@pytest.mark.parametrize("size", MGM)
@pytest.mark.parametrize("has_towers", [True, False], ids=["with-towers", "without-towers"])
def test_stage_1_of_mgm_is_complete(size: str, has_towers: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Base language model and `mm_projector.bin` of one size fit, whether the towers are in the file or in folders."""
    parts = stage_1_parts(size, STAGE_1[size], has_towers=has_towers, monkeypatch=monkeypatch)
    check_parts(parts)


def test_stage_1_of_another_size_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = stage_1_parts("7b", STAGE_1["13b"], has_towers=True, monkeypatch=monkeypatch)
    with pytest.raises(CheckpointMismatch, match=r"the connector needs \[4096.*Was it trained for language_model"):
        check_parts(parts)


def stage_1_parts(size: str, projector: str, *, has_towers: bool, monkeypatch: pytest.MonkeyPatch) -> dict[str, Part]:
    """Parts of a stage-1 model whose language model is that of the whole folder."""
    config = load_config(ROOT / "eval_configs" / "mgm_7b_stage1.yaml", [f"name={size}"])
    clip, convnext = sorted(TOWERS)

    class Stage1Files(LayoutFiles):
        def config_values(self, key: str) -> dict[str, Any]:
            return MGM[size]

        def tensors(self, key: str) -> Tensors:
            tensors = layout_tensors(self.layouts[key])
            if key == "language_model":
                return {n: t for n, t in tensors.items() if not re.match(r"model\.(vision_tower|mm_proj|vlm_uni)", n)}
            return tensors if has_towers else {n: t for n, t in tensors.items() if "vision_tower" not in n}

        def read(self, path: Path) -> Tensors:
            return layout_tensors(convnext if path.suffix == ".bin" else clip)

    if not has_towers:
        monkeypatch.setattr(mini_gemini, "tower_folder", lambda *arguments: ROOT / arguments[-1])
        monkeypatch.setattr(Path, "is_file", lambda path: path.suffix == ".bin")
    files = Stage1Files(config, {"language_model": VARIANTS[f"mgm_{size}"][0], "projector": projector})
    assert isinstance(config, mini_gemini.Config)
    return mini_gemini.parts(config, files)


def test_the_towers_of_mgm_load_from_their_own_folders_too() -> None:
    """What they are given from there is complete and of the same sizes as what the shards hold."""
    shards = parts_of("mgm_7b", "mini_gemini/MGM-7B")
    clip, convnext = (layout_tensors(layout) for layout in sorted(TOWERS))
    folders = {
        "vision_tower": tower_part(clip, is_siglip=False, layer=-2, values={}, source="a folder").tensors,
        "vision_tower_aux": rename(convnext, CONVNEXT_RULES),
    }
    for key, tensors in folders.items():
        assert {n: t.shape for n, t in tensors.items()} == {n: t.shape for n, t in shards[key].tensors.items()}


def test_no_layout_is_forgotten() -> None:
    used = {
        *TOWERS,
        *STAGE_1.values(),
        *EVA.values(),
        *BLIP2.values(),
        PHI_2_FOLDER,
        *(v for layouts in VARIANTS.values() for v in layouts),
    }
    found = {str(path.relative_to(LAYOUTS))[: -len(".json")] for path in LAYOUTS.glob("*/*.json")}
    assert used == {name for name in found if not name.startswith("moe_llava/")}  # those: test_moe_layouts.py


@pytest.mark.parametrize(
    ("name", "checkpoint", "message"),
    [
        ("minigpt4_vicuna0_7b", "minigpt4_vicuna0_13b", "13B language model .* is a 7B one"),
        ("minigpt4_vicuna0_13b", "minigpt4_vicuna0_7b", "7B language model .* is a 13B one"),
        ("minigpt4_vicuna0_7b", "minigpt4_llama2_7b", "without a Q-Former"),
        ("minigpt4_llama2_7b", "minigpt4_vicuna0_7b", "with a Q-Former"),
        ("minigpt4_llama2_7b", "minigpt_v2", "it is MiniGPT-v2"),
        ("minigpt_v2", "minigpt4_llama2_7b", "no LoRA tensors"),
        ("minigpt_v2", "eva_vit_g", "no LoRA tensors"),
        ("tinygptv_stage3", "minigpt4_vicuna0_7b", "no llama_proj2.weight; it is not a TinyGPT-V stage file"),
        ("minigpt4_vicuna0_7b", "eva_vit_g", "not a MiniGPT-4 or MiniGPT-v2 checkpoint"),
    ],
)
def test_a_wrong_pair_of_files_is_explained(name: str, checkpoint: str, message: str) -> None:
    with pytest.raises(CheckpointMismatch, match=message):
        parts_of(name, f"minigpt4/{checkpoint}")


@pytest.mark.parametrize(
    ("quantization", "gigabytes"),
    # 6.74 B Llama values, of which 0.26 B in embeddings and head stay 16-bit, and about 1 B of EVA ViT-g.
    [
        ("none", 2 * (6.738 + 0.986)),
        ("8bit", 6.476 + 2 * (0.262 + 0.986)),
        ("4bit", 6.476 * 0.5625 + 2 * (0.262 + 0.986)),
    ],
)
def test_memory_estimate_of_the_full_size(quantization: str, gigabytes: float) -> None:
    parts = parts_of("minigpt_v2", "minigpt4/minigpt_v2")
    assert weight_bytes(parts.values(), torch.float16, quantization) / 1e9 == pytest.approx(gigabytes, rel=0.02)


@each_variant
def test_the_printed_estimate_is_what_the_files_hold(
    name: str, checkpoint: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Within 10 %, counting whole files: a few of their tensors are not used, such as the last layer of CLIP."""
    layouts = layouts_of(name, checkpoint)
    if name == "minigpt4_llama2_7b" or name.startswith("minigpt_v2"):
        del layouts["qformer"]  # these have none
    files = LayoutFiles(load_config(ROOT / "eval_configs" / f"{name}.yaml"), layouts)
    released: Tensors = {}
    for key in {*layouts, "language_model"}:
        released |= {f"{key} {tensor}": value for tensor, value in files.tensors(key).items()}
    if name == "mgm_2b":
        del released["language_model lm_head.weight"]  # Gemma's, which is the embedding written twice
    held = gibibytes_in_16_bit(released.values())
    printed = printed_gibibytes(name, lambda config: LayoutFiles(config, layouts), monkeypatch, capsys)
    assert printed == pytest.approx(held, rel=0.1)
