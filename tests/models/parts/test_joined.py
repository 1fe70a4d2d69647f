"""Layers of the same inputs, multiplied as one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from models.parts.joined import put_joined


class Counting(nn.Linear):
    """Counts its products."""

    count = 0

    def forward(self, input: Tensor) -> Tensor:
        self.count += 1
        return super().forward(input)


@pytest.fixture
def parent() -> nn.Module:
    return nn.ModuleDict({"q_proj": nn.Linear(6, 4), "k_proj": nn.Linear(6, 2), "v_proj": nn.Linear(6, 2)})


def joined(parent: nn.Module) -> tuple[nn.Module, Counting]:
    """The parent with one layer in the place of three."""
    layers = [getattr(parent, name) for name in ("q_proj", "k_proj", "v_proj")]
    whole = Counting(6, 8)
    whole.weight.data = torch.cat([layer.weight for layer in layers])
    whole.bias.data = torch.cat([layer.bias for layer in layers])
    other = nn.Module()
    put_joined(other, ("q_proj", "k_proj", "v_proj"), whole, [4, 2, 2])
    return other, whole


@torch.inference_mode()
def test_each_gives_what_it_gave_alone_for_one_product(parent: nn.Module) -> None:
    other, whole = joined(parent)
    for count, inputs in enumerate((torch.randn(1, 3, 6), torch.randn(5, 6)), start=1):
        for name in ("q_proj", "k_proj", "v_proj"):
            torch.testing.assert_close(getattr(other, name)(inputs), getattr(parent, name)(inputs))
        assert whole.count == count
    assert {name for name, _ in other.named_parameters()} == {"joined_q_proj.weight", "joined_q_proj.bias"}


@torch.inference_mode()
def test_outputs_are_for_the_inputs_they_were_made_of(parent: nn.Module) -> None:
    """Another pass may come in between; and the memory of one that is done may be the next one's."""
    other, _ = joined(parent)
    first, second = torch.randn(2, 6), torch.randn(2, 6)
    in_turns = [("q_proj", first), ("q_proj", second), ("k_proj", first), ("k_proj", second), ("v_proj", second)]
    for name, inputs in (*in_turns, ("v_proj", first)):
        torch.testing.assert_close(getattr(other, name)(inputs), getattr(parent, name)(inputs))
    inputs = torch.randn(2, 6)
    for _ in range(2):
        inputs.copy_(torch.randn(2, 6))
        for name in ("q_proj", "k_proj", "v_proj"):
            torch.testing.assert_close(getattr(other, name)(inputs), getattr(parent, name)(inputs))
