"""Memory that runs out on a GPU is one clear error for whoever asked, and the next question works."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest

from engine.chat_engine import ChatEngine
from models.conversation import Sampling, Turn
from models.errors import NotEnoughMemory
from tests.engine.helpers import assert_idle, last
from tests.on_gpu.tiny_families import GREEDY, Gpus, endless, load, question, start, without_graphs

PLENTY = 64 << 30
DRAWN = Sampling(temperature=1, top_p=0.9, repetition_penalty=1.0)


@pytest.fixture(params=[True, False], ids=["graphs", "steady"])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ChatEngine:
    logging.getLogger("ContinuousBatchingLogger").setLevel(logging.CRITICAL)
    if not request.param:
        without_graphs(monkeypatch)
    return start(endless(load("minigpt_v2")), max_concurrent=1)


def test_in_a_step_and_while_encoding(engine: ChatEngine, gpus: Gpus) -> None:
    with engine:
        expected = last(engine, question(0), GREEDY)
        stream = engine.stream((Turn("user", "Tell me."),), replace(DRAWN, max_new_tokens=200))
        next(stream)
        gpus[0].leave(0)
        with pytest.raises(NotEnoughMemory, match=r"cuda:0 ran out of memory during this answer\. Ask again") as error:
            list(stream)
        assert "\n" not in str(error.value)
        gpus[0].total_bytes = PLENTY
        assert last(engine, question(0), GREEDY).text == expected.text
        assert engine.stats().restarts == 1
        gpus[0].leave(1000)
        with pytest.raises(NotEnoughMemory, match=r"No memory for this question on cuda:0") as error:
            last(engine, question(1), GREEDY)
        assert "\n" not in str(error.value)
        gpus[0].total_bytes = PLENTY
        assert last(engine, question(1), GREEDY).num_new_tokens == GREEDY.max_new_tokens
        assert_idle(engine)


def test_at_the_start(gpus: Gpus) -> None:
    model = load("minigpt_v2")
    gpus[0].leave(1 << 20)
    with pytest.raises(NotEnoughMemory, match="One conversation of 256 tokens needs"):
        start(model, kv_bytes=None)
    gpus[0].total_bytes = PLENTY
    engine = start(model)
    gpus[0].leave(100_000)
    with pytest.raises(NotEnoughMemory, match="No memory for the KV cache on cuda:0"):
        engine.start()
