"""Every released MoE-LLaVA at full size, on the meta device: each parameter has a tensor, each tensor a use."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from models.config import FamilyConfig, family_module, load_config
from models.devices import weight_bytes
from models.errors import CheckpointMismatch, ConfigError
from models.loader import check_parts
from models.parts.sparse_moe import LinearExperts
from models.released import ReleasedFiles
from models.weights import Part, Tensors
from tests.models.estimates import gibibytes_in_16_bit, printed_gibibytes

ROOT = Path(__file__).resolve().parents[2]
LAYOUTS = ROOT / "tests" / "data" / "layouts" / "moe_llava"

# The language model's values in config.json, from the public base models.
STABLELM = {
    "model_type": "moe_llava_stablelm", "hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 24,
    "num_attention_heads": 32, "num_key_value_heads": 32, "vocab_size": 100352, "rope_pct": 0.25, "norm_eps": 1e-5,
}  # fmt: skip
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
