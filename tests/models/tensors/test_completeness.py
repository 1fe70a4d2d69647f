"""What `check_complete` says of tensors that do not fit a module."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from models.errors import CheckpointMismatch
from models.tensors.completeness import check_complete
from models.tensors.weights import Lora, Part

SIZE = torch.Size((4, 3))


def part_of(tensors: dict[str, Tensor], lora: Lora | None = None) -> Part:
    return Part(
        name="language model", source="here", module_class=nn.Linear, config={}, tensors=tensors, lora=lora, hint="Why?"
    )


def test_the_first_of_many_layers_is_the_first_by_number() -> None:
    expected = {f"layers.{n}.weight": SIZE for n in range(12)}
    part = part_of({f"layers.{n}.weight": torch.zeros(SIZE) for n in range(12) if n not in (2, 10)})
    with pytest.raises(CheckpointMismatch, match=r"2 parameters without weights \(first: layers.2.weight\). Why\?"):
        check_complete(part, expected)


@pytest.mark.parametrize(
    ("name", "rows", "columns", "message"),
    [
        ("w", 4, 3, None),
        ("w", 5, 3, r"LoRA of w is \[5, 2\], but the language model needs \[4, 2\]. Why\?"),
        ("w", 3, 4, r"LoRA of w is \[2, 4\], but the language model needs \[2, 3\]"),
        ("v", 4, 3, "LoRA of v: the language model has no v to update"),
    ],
)
def test_a_lora_is_for_a_weight_of_its_size(name: str, rows: int, columns: int, message: str | None) -> None:
    lora = Lora(pairs={name: (torch.zeros(2, columns), torch.zeros(rows, 2))}, alpha=1.0)
    part = part_of({"w": torch.zeros(SIZE)}, lora)
    if message is None:
        check_complete(part, {"w": SIZE})
        return
    with pytest.raises(CheckpointMismatch, match=message):
        check_complete(part, {"w": SIZE})
