"""Muon: momentum whose update is orthogonalised by a Newton-Schulz iteration. For hidden weight matrices only.

Source: Jordan et al., "Muon: an optimizer for hidden layers in neural networks" (2024).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic iteration, tuned by its authors for steepness at zero


def orthogonalise(matrices: Tensor, iterations: int = 5) -> Tensor:
    """Nearest (roughly) orthogonal matrix of each of `matrices` [N, rows, columns], computed in bfloat16."""
    a, b, c = _COEFFICIENTS
    is_tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.to(torch.bfloat16)
    if is_tall:
        x = x.mT
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(iterations):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.mT if is_tall else x).to(matrices.dtype)


class Muon(torch.optim.Optimizer):
    """One learning rate per group; equal shapes are orthogonalised together.

    The parameters of a group with `num_fused` > 1 hold that many matrices one above the other, such as q, k and v,
    which are orthogonalised one by one.
    """

    def __init__(
        self, params: Iterable[nn.Parameter] | list[dict[str, Any]], lr: float, momentum: float = 0.95
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "num_fused": 1})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # noqa: ARG002 - torch's signature
        """Apply one update; gradients must be present."""
        for group in self.param_groups:
            by_shape: dict[tuple[int, int], list[tuple[Tensor, Tensor]]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                update = self._nesterov(parameter, group["momentum"])
                count = group["num_fused"]
                for target, part in zip(parameter.chunk(count), update.chunk(count), strict=True):
                    by_shape[(part.shape[0], part.shape[1])].append((target, part))
            for (rows, columns), pairs in by_shape.items():
                steps = orthogonalise(torch.stack([part for _, part in pairs]))
                scale = max(1.0, rows / columns) ** 0.5
                for (target, _), step in zip(pairs, steps, strict=True):
                    target.add_(step, alpha=-group["lr"] * scale)

    def _nesterov(self, parameter: Tensor, momentum: float) -> Tensor:
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        gradient: Tensor = parameter.grad  # type: ignore[assignment]
        state["momentum"].lerp_(gradient, 1 - momentum)
        return gradient.lerp(state["momentum"], momentum)
