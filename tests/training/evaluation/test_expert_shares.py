"""How evenly experts are used: counted over conversations of any length, by first choice and by both."""

from __future__ import annotations

import pytest

from models.errors import ConfigError
from models.routing_trace import LayerRouting, PatchGrid, RoutingTrace
from training.evaluation.expert_shares import expert_shares, share_figures
from training.evaluation.low_resolution import leave_out_mining
from training.tiny.families.minigpt_v2 import DECODER, TOWER
from training.tiny.networks import build_merge_connector


def trace(*layers: tuple[int, tuple[int, ...], tuple[int, ...]]) -> RoutingTrace:
    routed = tuple(LayerRouting(layer, 4, first, second) for layer, first, second in layers)
    return RoutingTrace(routed, (None,) * len(layers[0][1]), PatchGrid(side=1, first=0, fit="stretch"))


def test_tokens_count_alike_in_short_and_long_conversations() -> None:
    shares = expert_shares([trace((1, (0, 0, 0), (1, 1, 2))), trace((1, (3,), (0,)))])
    assert shares == {1: ([0.75, 0.0, 0.0, 0.25], [0.5, 0.25, 0.125, 0.125])}


def test_the_extremes_are_over_layers_and_both_ways_to_count() -> None:
    figures = share_figures(expert_shares([trace((0, (0, 1, 2, 3), (1, 2, 3, 0)), (2, (0, 0, 0, 1), (1, 2, 3, 0)))]))
    assert figures["expert_share_least"] == 0.0  # as first choice in layer 2; as any choice it is 1/8
    assert figures["expert_share_most"] == 0.75
    assert [figures[f"layer_2_expert_{expert}"] for expert in range(4)] == [0.5, 0.25, 0.125, 0.125]


def test_only_mini_gemini_has_a_tower_to_leave_out() -> None:
    with pytest.raises(ConfigError, match="leave --low-resolution out"):
        leave_out_mining(build_merge_connector(TOWER, DECODER))
