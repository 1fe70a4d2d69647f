"""Optimisers and schedule of both training stages."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from training.tiny.muon import Muon

_WARMUP = 0.02  # share of the steps


@dataclass(frozen=True, kw_only=True)
class LearningRates:
    """Peak learning rates: Muon for hidden matrices, AdamW for everything else."""

    muon: float
    adamw: float


class MuonWithAdamW(torch.optim.Optimizer):
    """Two optimisers that are one to whoever steps, schedules or saves them: groups and state are shared."""

    def __init__(self, muon_groups: list[dict[str, Any]], adamw_groups: list[dict[str, Any]]) -> None:
        super().__init__([*muon_groups, *adamw_groups], {})
        # Built over the very dictionaries of this one's groups. Either may have none; torch wants at least one.
        parts: list[torch.optim.Optimizer] = []
        if muon_groups:
            parts.append(Muon(muon_groups, lr=0.0))
        if adamw_groups:
            parts.append(torch.optim.AdamW(adamw_groups, lr=0.0, betas=(0.9, 0.98), weight_decay=0.0))
        self._parts = parts
        self._share()

    def _share(self) -> None:
        first = 0
        for part in self._parts:
            part.state = self.state
            last = first + len(part.param_groups)
            part.param_groups = self.param_groups[first:last]
            first = last

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # with groups and state of its own, when a state dict is loaded
        self._share()

    def step(self, closure: None = None) -> None:  # type: ignore[override]  # noqa: ARG002 - torch's signature
        """Apply one update."""
        for part in self._parts:
            part.step()


def build_optimiser(parts: Iterable[tuple[nn.Module, float]], rates: LearningRates) -> MuonWithAdamW:
    """An optimiser over the trainable parameters of `parts`, each with a factor on its learning rates."""
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
            {"params": found, "lr": rates.muon * factor, "num_fused": n} for n, found in matrices.items() if found
        ]
        if others:
            adamw_groups.append({"params": others, "lr": rates.adamw * factor})
    return MuonWithAdamW(muon_groups, adamw_groups)


def _is_hidden_matrix(name: str, parameter: nn.Parameter) -> bool:
    """Hidden weights go to Muon; embeddings, output rows, routers, read-out heads and LoRA factors do not."""
    is_hidden = parameter.ndim == 2 and (".layers." in name or ".layer." in name)
    return is_hidden and "lora" not in name and ".router." not in name


def rate_factor(steps: int, decay_from: float) -> Callable[[int], float]:
    """Step -> the learning rate as a part of its peak: short warm-up, constant, linear decay to zero.

    `decay_from` is the share of the steps after which it falls.
    """

    def factor(step: int) -> float:
        progress = step / steps
        return min(1.0, (progress + 1e-3) / _WARMUP, (1 - progress) / (1 - decay_from))

    return factor
