"""How evenly the experts of a model are used on fresh scenes, for `python -m training.evaluate`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from models.routing_trace import RoutingTrace


def expert_shares(traces: Iterable[RoutingTrace]) -> dict[int, tuple[list[float], list[float]]]:
    """For every sparse layer, each expert's share of the tokens by first choice, and its share of both choices."""
    firsts: dict[int, list[np.ndarray]] = {}
    seconds: dict[int, list[np.ndarray]] = {}
    counts: dict[int, int] = {}
    for trace in traces:
        for layer in trace.layers:
            firsts.setdefault(layer.layer, []).append(np.array(layer.first))
            seconds.setdefault(layer.layer, []).append(np.array(layer.second))
            counts[layer.layer] = layer.num_experts
    return {
        layer: (_shares(firsts[layer], count), _shares(firsts[layer] + seconds[layer], count))
        for layer, count in counts.items()
    }


def _shares(choices: Sequence[np.ndarray], num_experts: int) -> list[float]:
    chosen = np.bincount(np.concatenate(choices), minlength=num_experts)
    return [float(share) for share in chosen / chosen.sum()]


def share_figures(shares: dict[int, tuple[list[float], list[float]]]) -> dict[str, float]:
    """Figures for a report: every expert's share of both choices, and the extremes of either way to count."""
    figures = {
        f"layer_{layer}_expert_{expert}": share
        for layer, (_, both) in sorted(shares.items())
        for expert, share in enumerate(both)
    }
    every = [share for pair in shares.values() for part in pair for share in part]
    return figures | {"expert_share_least": min(every), "expert_share_most": max(every)}
