"""The memory of a computation, counted without doing it."""

from __future__ import annotations

import torch
from torch import nn

from models.memory.activations import most_bytes


class Layers(nn.Module):
    """[8, 100] -> [8, 1], with a table that it computes itself."""

    table: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.narrow = nn.Linear(100, 1000, device="meta"), nn.Linear(1000, 1, device="meta")
        self.register_buffer("table", torch.zeros(1000))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        wide = self.wide(inputs)
        wide = wide + self.table
        return self.narrow(wide.view(8, 1000))


def test_what_is_gone_counts_no_more() -> None:
    """At most the wide values before and after the sum are there, not the third with a view and the result."""
    layers, inputs = Layers(), torch.empty(8, 100, device="meta")
    assert most_bytes(lambda: layers(inputs), [layers]) == 2 * 8 * 1000 * 4


def test_the_module_is_as_before() -> None:
    layers = Layers()
    table = layers.table
    most_bytes(lambda: layers(torch.empty(8, 100, device="meta")), [layers])
    assert layers.table is table
