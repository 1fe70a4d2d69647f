"""Optimisers and schedule of both training stages."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from training.tiny.muon import Muon


@dataclass(frozen=True, kw_only=True)
class LearningRates:
    """Peak learning rates: Muon for hidden matrices, AdamW for everything else."""

    muon: float
    adamw: float


def build_optimisers(parts: Iterable[tuple[nn.Module, float]], rates: LearningRates) -> list[torch.optim.Optimizer]:
    """Optimisers over the trainable parameters of `parts`, each with a factor on its learning rates."""
    muon_groups: list[dict[str, Any]] = []
    adamw_groups: list[dict[str, Any]] = []
    for part, factor in parts:
        matrices: dict[int, list[nn.Parameter]] = {1: [], 3: []}  # by the number of fused ones
        others: list[nn.Parameter] = []
        for name, parameter in part.named_parameters():
            if not parameter.requires_grad:
                continue
            if _is_hidden_matrix(name, parameter):
                matrices[3 if name.endswith("qkv.weight") else 1].append(parameter)
            else:
                others.append(parameter)
        muon_groups += [
            {"params": found, "peak": rates.muon * factor, "num_fused": n} for n, found in matrices.items() if found
        ]
        if others:
            adamw_groups.append({"params": others, "peak": rates.adamw * factor})
    adamw = torch.optim.AdamW(adamw_groups, lr=rates.adamw, betas=(0.9, 0.98), weight_decay=0.0)
    return [Muon(muon_groups, lr=rates.muon), adamw] if muon_groups else [adamw]


def _is_hidden_matrix(name: str, parameter: nn.Parameter) -> bool:
    """Hidden weights go to Muon; embeddings, output rows, routers, read-out heads and LoRA factors do not."""
    is_hidden = parameter.ndim == 2 and (".layers." in name or ".layer." in name)
    return is_hidden and "lora" not in name and ".router." not in name


def set_progress(
    optimisers: Iterable[torch.optim.Optimizer], progress: float, *, decay_from: float, warmup: float = 0.02
) -> None:
    """Set the learning rates at `progress` in 0…1: short warm-up, constant, linear decay to zero."""
    scale = min(1.0, (progress + 1e-3) / warmup, (1 - progress) / (1 - decay_from))
    for optimiser in optimisers:
        for group in optimiser.param_groups:
            group["lr"] = group["peak"] * scale
