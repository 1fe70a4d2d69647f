"""Vision towers attend in C in bfloat16, and see the same."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers import CLIPVisionConfig, CLIPVisionModel

from models.native import many_queries as native
from models.parts import attention_in_c
from models.parts.attention_in_c import attend_in_c

pytestmark = pytest.mark.skipif(native.many_queries() is None, reason="no compiled code for bfloat16 on this machine")


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many queries each call had."""
    calls: list[int] = []
    attend = native.ManyQueries.attend

    def count(self: native.ManyQueries, query: Tensor, *others: object) -> Tensor:
        calls.append(query.shape[2])
        return attend(self, query, *others)  # type: ignore[arg-type]

    monkeypatch.setattr(native.ManyQueries, "attend", count)
    return calls


@torch.inference_mode()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_a_tower_sees_the_same(dtype: torch.dtype, counted: list[int]) -> None:
    torch.manual_seed(0)
    tower = CLIPVisionModel(
        CLIPVisionConfig(
            hidden_size=64,
            intermediate_size=96,
            num_hidden_layers=3,
            num_attention_heads=4,
            image_size=28,
            patch_size=7,
        )
    ).eval()
    pixels = torch.randn(2, 3, 28, 28)
    exact = tower(pixels).last_hidden_state
    tower = tower.to(dtype)
    before = tower(pixels.to(dtype)).last_hidden_state
    attend_in_c(torch.nn.ModuleDict({"tower": tower}))
    assert tower.config._attn_implementation == attention_in_c.ATTENTION_IN_C
    after = tower(pixels.to(dtype)).last_hidden_state
    assert counted == ([17] * 3 if dtype == torch.bfloat16 else [])
    assert (after - exact).norm() <= 1.2 * (before - exact).norm()
