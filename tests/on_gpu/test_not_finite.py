"""NaN of one request ends that one, in replayed steps and in others; it is told with the chosen tokens."""

from __future__ import annotations

import math

import pytest

from tests.engine.batching.faults.one_broken import check_that_the_others_go_on, sliding_model
from tests.on_gpu.tiny_families import Gpus, without_graphs
from tests.tiny_model import tiny_model


@pytest.mark.parametrize("in_answer", [False, True])
@pytest.mark.parametrize("kind", ["graphs", "steady", "pages", "sliding", "sliding, graphs"])
def test_the_others_go_on(kind: str, in_answer: bool, gpus: Gpus, monkeypatch: pytest.MonkeyPatch) -> None:
    make = sliding_model if "sliding" in kind else tiny_model
    model = make(context_tokens=128).to("cuda")
    if "graphs" not in kind:
        without_graphs(monkeypatch)
    if kind == "pages":
        monkeypatch.setattr("engine.batching.manager.can_decode_steadily", lambda _: False)
    check_that_the_others_go_on(model, math.nan, in_answer=in_answer, kv_bytes=1 << 26)
    assert (gpus[0].counts.replays > 0) == ("graphs" in kind)
