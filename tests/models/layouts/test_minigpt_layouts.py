"""Every released variant at full size, on the meta device: each parameter has a tensor, each tensor a use."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from models.config import load_config
from models.errors import CheckpointMismatch
from models.families import mini_gemini
from models.loader import check_parts
from models.memory.sizes import weight_bytes
from models.parts.dual_vision import CONVNEXT_RULES
from models.parts.llava_vision import tower_part
from models.tensors.weights import Part, Tensors, rename
from tests.models.layouts.estimates import check_stated, gibibytes_in_16_bit, printed_gibibytes
from tests.models.layouts.minigpt_full_size import (
    BLIP2,
    EVA,
    LAYOUTS,
    MGM,
    PHI_2_FOLDER,
    STAGE_1,
    TOWERS,
    VARIANTS,
    LayoutFiles,
    layout_tensors,
    layouts_of,
    parts_of,
)
from tests.paths import ROOT

each_variant = pytest.mark.parametrize(
    ("name", "checkpoint"), [(name, layout) for name, layouts in VARIANTS.items() for layout in layouts]
)


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
    check_stated(name, printed)
