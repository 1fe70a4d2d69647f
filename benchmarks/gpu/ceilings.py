"""What a device could do at best, and what a step and a first token would then take."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from benchmarks.measure import Clock
from benchmarks.random_models import ModelSize
from models.parts.sparse_moe import SparseFeedForward
from models.vision_language_model import VisionLanguageModel


@dataclass(frozen=True)
class Ceilings:
    """What the device does at best, measured here: bytes per second read, and floating-point operations per second."""

    bandwidth: float
    flops: float


def measure_ceilings(clock: Clock, *, side: int, megabytes: int, repeats: int = 5) -> Ceilings:
    """In bf16, over more than fits any cache: a copy or a product with a vector, the faster; a product of matrices.

    The numbers are random, as a device computes with equal ones faster.
    """
    rows = megabytes * 2**20 // 2 // side
    weights, vector, square = (
        torch.rand(shape, dtype=torch.bfloat16, device=clock.device)
        for shape in ((rows, side), (side, 1), (side, side))
    )
    other = torch.empty_like(weights)

    def best(work: Callable[[], object]) -> float:
        times = []
        for _ in range(repeats):
            start = clock()
            work()
            times.append(clock() - start)
        return max(min(times), 1e-9)

    copied = 2 * weights.nbytes / best(lambda: other.copy_(weights))
    multiplied = weights.nbytes / best(lambda: weights @ vector)
    return Ceilings(bandwidth=max(copied, multiplied), flops=2 * side**3 / best(lambda: square @ square))


def bytes_per_token(language_model: nn.Module) -> float:
    """Weights read for one token of one chat: everything but the input embedding, and two experts of each layer."""
    embedding = language_model.get_input_embeddings().weight  # type: ignore[operator]
    total = sum(parameter.nbytes for parameter in language_model.parameters())
    head = language_model.get_output_embeddings()  # type: ignore[operator]
    total -= embedding.nbytes if head.weight is not embedding else 0  # a tied one is read as the head
    for module in language_model.modules():
        experts = getattr(module, "experts", None)
        if isinstance(module, SparseFeedForward) or isinstance(experts, nn.Module):
            count = int(getattr(experts, "num_experts", 2))
            total -= sum(p.nbytes for p in experts.parameters()) * (1 - 2 / count) if experts is not None else 0
    return float(total)


def first_token_floor(model: VisionLanguageModel, size: ModelSize, prompt_tokens: int, ceilings: Ceilings) -> float:
    """Seconds for the tower's arithmetic, and for the prompt's or for reading the weights, whichever takes longer.

    Without attention, so the real floor is a little higher.
    """
    tower = sum(p.numel() for p in model.vision_tower.parameters()) * 2 * (size.image_tokens * size.merge + 1)
    weights = bytes_per_token(model.language_model)
    prefill = weights / model.language_model.dtype.itemsize * 2 * prompt_tokens
    return tower / ceilings.flops + max(prefill / ceilings.flops, weights / ceilings.bandwidth)
