"""What others have published about decoding on GPUs: not measured here, on other machines and with other models."""

from __future__ import annotations

from dataclasses import dataclass

_SMALL = 8e9  # bytes of weights that a token reads, below which a step's kernels are short


@dataclass(frozen=True, kw_only=True)
class PublishedSpeed:
    """Tokens per second of one chat, if they were said, and their share of the memory's bandwidth."""

    engine: str
    setting: str
    source: str
    tokens: float | None = None
    share: float

    def line(self) -> str:
        """As a sentence of a report."""
        speed = "" if self.tokens is None else f"{self.tokens:g} tokens/s, "
        return f"published, not measured: {self.engine}, {self.setting}: {speed}{self.share:.0%} ({self.source})"


# 1,397 GB/s, as a share of what its authors found the memory to give (1,700), as ours is; of the specified 2,039, 69 %.
GPT_FAST = PublishedSpeed(
    engine="gpt-fast",
    setting="Llama-2 7B in bf16, one chat, A100 80 GB at 330 W",
    tokens=104.9,
    share=0.82,
    source="README of github.com/pytorch-labs/gpt-fast",
)
# At most, and of the specified bandwidth.
VLLM = PublishedSpeed(
    engine="vLLM, SGLang",
    setting="Llama-3.2 1B in bf16, one chat, H100",
    share=0.5,
    source="hazyresearch.stanford.edu/blog/2025-05-27-no-bubbles",
)
# Its weights' share of an H100's specified 3,350 GB/s: what eager `generate` is published to do.
GENERATE = PublishedSpeed(
    engine="transformers' eager generate",
    setting="Llama-3.1 8B in bf16, one chat, H100",
    tokens=41.0,
    share=0.18,
    source="benchmarking/README.md of bitsandbytes 0.45",
)


def rival_of(num_bytes: float) -> PublishedSpeed:
    """Whose share of the bandwidth is to be compared with that of a model of which a token reads so many bytes."""
    return VLLM if num_bytes < _SMALL else GPT_FAST
