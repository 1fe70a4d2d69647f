"""Every released MoE-LLaVA at full size, on the meta device: each parameter has a tensor, each tensor a use."""

from __future__ import annotations

import pytest
import torch

from models.errors import CheckpointMismatch, ConfigError
from models.loader import check_parts
from models.memory.sizes import weight_bytes
from models.parts.sparse_moe import LinearExperts
from tests.models.layouts.estimates import check_stated, gibibytes_in_16_bit, printed_gibibytes
from tests.models.layouts.moe_full_size import (
    LAYOUTS,
    PHI2,
    PROJECTORS,
    VARIANTS,
    LayoutFiles,
    layout_tensors,
    parts_of,
)


@pytest.mark.parametrize("quantization", ["none", "8bit"])
@pytest.mark.parametrize(("name", "variant"), VARIANTS.items(), ids=list(VARIANTS))
def test_released_variant_is_complete(name: str, variant: tuple[str, float], quantization: str) -> None:
    parts = parts_of(name, variant[0], quantization=quantization)
    check_parts(parts)
    number = sum(tensor.numel() for key in ("connector", "language_model") for tensor in parts[key].tensors.values())
    assert number / 1e9 == pytest.approx(variant[1], abs=0.06)


@pytest.mark.parametrize(("name", "variant"), VARIANTS.items(), ids=list(VARIANTS))
def test_the_printed_estimate_is_what_the_folder_holds(
    name: str, variant: tuple[str, float], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    held = gibibytes_in_16_bit(layout_tensors(variant[0]).values())
    printed = printed_gibibytes(name, lambda config: LayoutFiles(config, variant[0]), monkeypatch, capsys)
    assert printed == pytest.approx(held, rel=0.1)
    check_stated(name, printed)


@pytest.mark.parametrize(("projector", "layout"), PROJECTORS.items())
def test_a_stage_1_projector_fits_its_language_model(projector: str, layout: str) -> None:
    name = "moe_llava_phi2_stage1"
    check_parts(parts_of(name, layout, projector, vision_tower="null"))
    other = "MoE-LLaVA-StableLM-Pretrain" if "Phi2" in projector else "MoE-LLaVA-Phi2-Pretrain"
    with pytest.raises(CheckpointMismatch, match="belong together"):
        check_parts(parts_of(name, layout, other, vision_tower="null"))


def test_no_layout_is_forgotten() -> None:
    used = {layout for layout, _ in VARIANTS.values()} | {f"{name}.mm_projector.bin" for name in PROJECTORS}
    assert used == {path.name.removesuffix(".json") for path in LAYOUTS.glob("*.json")}


def test_what_does_not_fit_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CheckpointMismatch, match=r"no projector .* add the key projector"):
        parts_of("moe_llava_phi2", "MoE-LLaVA-Phi2-Stage2", "no")
    with pytest.raises(ConfigError, match="choose one of phi, stablelm"):
        parts_of("moe_llava_phi2", "MoE-LLaVA-Phi2-2.7B-4e", conversation="vicuna")
    for change, message in (
        ({"model_type": "llava_gpt2"}, "'llava_gpt2'; MoE-LLaVA has phi, stablelm, qwen and mistral"),
        ({"moe": {"moe_layers_idx": [0, 2], "num_experts": [4, 4], "top_k_experts": 1}}, "top_k_experts 1; only 2"),
        ({"moe": {"moe_layers_idx": [0, 2], "num_experts": [4, 4, 4]}}, "other numbers of experts than of MoE layers"),
        ({"moe": {"moe_layers_idx": [0, 40], "num_experts": [4, 4]}}, "layer 40, but there are 32"),
        ({"moe": {"moe_layers_idx": [0, 2], "num_experts": [8, 8]}}, "belong together"),
        ({"moe": {"moe_layers_idx": [1, 3], "num_experts": [4, 4]}}, "belong together"),
    ):
        values = {**PHI2, **change}
        monkeypatch.setattr(LayoutFiles, "config_values", lambda *_, values=values: values)
        with pytest.raises(CheckpointMismatch, match=message):
            check_parts(parts_of("moe_llava_phi2", "MoE-LLaVA-Phi2-2.7B-4e"))


def test_memory_estimate_counts_quantized_experts() -> None:
    """5.3 B values, of which 0.26 B in embeddings and head, and 0.3 B in the tower, stay at 16 bits."""
    parts = parts_of("moe_llava_phi2", "MoE-LLaVA-Phi2-2.7B-4e", quantization="8bit")
    with torch.device("meta"):
        model = parts["language_model"].module_class(parts["language_model"].config)
    assert sum(isinstance(module, LinearExperts) for module in model.modules()) == 16
    gigabytes = weight_bytes(parts.values(), torch.float16, "8bit") / 1e9
    assert gigabytes == pytest.approx(5.08 + 2 * (0.262 + 0.30), rel=0.02)
