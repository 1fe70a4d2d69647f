"""An Apple GPU: no CUDA, no graphs, no float64, float16 by default."""

from __future__ import annotations

import pytest
import torch

from tests.engine.batching.helpers import steady_of
from tests.engine.helpers import assert_idle, last
from tests.on_gpu.tiny_families import FAMILIES, GREEDY, cpu_texts, load, question, start

KIND = "mps"


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_loads(family: str) -> None:
    model = load(family, "auto", dtype="auto")
    assert model.device.type == "mps"
    assert model.text_embedding.weight.dtype == torch.float16
    assert model.encode_images(question(0)[0].images).isfinite().all()


def test_answers_are_those_of_the_cpu() -> None:
    with start(load("moe_llava", "mps")) as engine:
        assert engine.stats().steps_captured == 0
        assert last(engine, question(0), GREEDY).text == cpu_texts("moe_llava")[0]
        assert steady_of(engine).num_tokens > 0
        assert_idle(engine)
