"""The released models' sizes, in two parts that a GPU should need less than ten minutes each for."""

from __future__ import annotations

from dataclasses import dataclass, replace

from benchmarks.random_models import ModelSize

_CLIP_L = {
    "vision_hidden": 1024, "vision_inner": 4096, "vision_layers": 24, "vision_heads": 16, "image": 336, "merge": 1,
}  # fmt: skip
_VIT_G = {
    "vision_hidden": 1408, "vision_inner": 6144, "vision_layers": 39, "vision_heads": 16, "image": 448, "merge": 4,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class FullSize:
    """A released model's sizes. Goals: share of the bandwidth, times eager `generate`, times the original's 8 bits."""

    backbone: str
    size: ModelSize
    bandwidth: float | None = None
    eager: float | None = None
    low_resource: float | None = None
    together: float | None = None


def _sizes(hidden: int, inner: int, layers: int, heads: int, key_value_heads: int, vocabulary: int) -> ModelSize:
    return ModelSize(
        hidden=hidden, inner=inner, layers=layers, heads=heads, key_value_heads=key_value_heads, vocabulary=vocabulary
    )


LLAMA_7B = _sizes(4096, 11008, 32, 32, 32, 32000)
PARTS: dict[int, dict[str, FullSize]] = {
    1: {
        "MiniGPT-v2 7B": FullSize(
            backbone="llama", size=replace(LLAMA_7B, **_VIT_G),
            bandwidth=0.65, eager=4, low_resource=12, together=8,
        ),
        "Mini-Gemini 7B": FullSize(backbone="llama", size=replace(LLAMA_7B, **_CLIP_L), bandwidth=0.65, eager=4),
        # TinyGPT-V's inner width is 10240: `random_models` makes a Phi half as wide again as it is told.
        "TinyGPT-V 2.8B": FullSize(
            backbone="phi", size=replace(_sizes(2560, 6827, 32, 32, 32, 51200), **_VIT_G), eager=6
        ),
        "Mini-Gemini 2B": FullSize(
            backbone="gemma", size=replace(_sizes(2048, 16384, 18, 8, 1, 256000), **_CLIP_L), eager=6
        ),
        "MoE-LLaVA StableLM": FullSize(
            backbone="sparse_stablelm", size=replace(_sizes(2048, 5632, 24, 32, 32, 100352), **_CLIP_L), eager=6
        ),
        "MoE-LLaVA Qwen": FullSize(
            backbone="sparse_qwen2", size=replace(_sizes(2048, 5504, 24, 16, 16, 151936), **_CLIP_L), eager=6
        ),
        "MoE-LLaVA Phi-2": FullSize(
            backbone="sparse_phi", size=replace(_sizes(2560, 10240, 32, 32, 32, 51200), **_CLIP_L), eager=6
        ),
    },
    2: {
        "Mini-Gemini 8B": FullSize(
            backbone="llama", size=replace(_sizes(4096, 14336, 32, 32, 8, 128256), **_CLIP_L), bandwidth=0.65
        ),
        "MiniGPT-4 13B": FullSize(
            backbone="llama",
            size=replace(_sizes(5120, 13824, 40, 40, 40, 32000), **(_VIT_G | {"image": 224, "merge": 8})),
            bandwidth=0.65,
        ),
        "MoE-LLaVA OpenChat": FullSize(
            backbone="sparse_mistral", size=replace(_sizes(4096, 14336, 32, 32, 8, 32002), **_CLIP_L)
        ),
        "Mini-Gemini 34B": FullSize(
            backbone="llama", size=replace(_sizes(7168, 20480, 60, 56, 8, 64000), **_CLIP_L), bandwidth=0.65
        ),
        "Mini-Gemini 8x7B": FullSize(
            backbone="mixtral",
            size=replace(_sizes(4096, 14336, 32, 32, 8, 32000), num_experts=8, **_CLIP_L),
            bandwidth=0.65,
        ),
    },
}  # fmt: skip
