"""The line about memory that is printed before anything is allocated."""

from __future__ import annotations

import pytest

from models.errors import NotEnoughMemory
from models.loader import load_model
from models.memory.memory_plan import MemoryPlan
from models.memory.sizes import KeysAndValues
from tests.paths import ROOT

MIB, GIB = 2**20, 2**30


def test_the_line_says_all_of_it() -> None:
    plan = MemoryPlan(
        program=GIB // 2,
        weights=7 * GIB,
        loading=15 * GIB // 2,
        keys_and_values=KeysAndValues(chats=1, num_bytes=2 * GIB, one_chat=GIB),
        images=100 * MIB,
        context_tokens=2000,
    )
    assert plan.line() == (
        "Memory: 7.0 GiB of weights (7.5 GiB at the worst moment of loading), 100 MiB for images, up to 2.0 GiB of "
        "keys and values for 1 chat at once, taken as they grow to 2000 tokens each (--max-chats, --kv-memory, "
        "--context-tokens); with the program 9.6 GiB at most."
    )


@pytest.mark.parametrize("asked", ["max_chats=1000000000", "context_tokens=10000000000"])
def test_more_images_than_memory_can_hold_are_refused_before_loading(
    asked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("models.loader.materialise", lambda *_, **__: pytest.fail("weights were loaded first"))
    said: list[str] = []
    with pytest.raises(
        NotEnoughMemory, match=r"\.yaml: .* for the [\d,]+ images .* free on cpu\. Take fewer chats"
    ) as error:
        load_model(ROOT / "eval_configs/tiny_tinygpt_v.yaml", device="cpu", overrides=[asked], report=said.append)
    assert "\n" not in str(error.value)
