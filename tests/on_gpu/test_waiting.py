"""In a decode step the host waits for the GPU once: to read the chosen tokens."""

from __future__ import annotations

from dataclasses import replace

import bitsandbytes
import pytest

from benchmarks.gpu.step_counts import StepCounts
from engine.chat_engine import ChatEngine
from models.conversation import Sampling, Turn
from models.parts.sparse_moe import LinearExperts
from tests.engine.helpers import last
from tests.on_gpu.tiny_families import GREEDY, Gpus, endless, load, question, start, without_graphs

DRAWN = Sampling(temperature=1, top_p=0.9, repetition_penalty=1.1, seed=1)
TURNS = (Turn("user", "Tell me."),)


def counts_per_token(engine: ChatEngine, sampling: Sampling, gpus: Gpus) -> StepCounts:
    """By which a long answer and a short one differ."""
    counts, found = gpus[0].counts, []
    for tokens in (2, 2, 10):  # the first reads the prompt
        counts.reset()
        assert last(engine, TURNS, replace(sampling, max_new_tokens=tokens)).num_new_tokens == tokens
        found.append(StepCounts(counts.launches, counts.replays, counts.synchronizations))
    return found[2].per_step(found[1], 8)


def waits_per_token(engine: ChatEngine, sampling: Sampling, gpus: Gpus) -> float:
    return counts_per_token(engine, sampling, gpus).waits


@pytest.mark.parametrize(
    ("family", "graphs"), [("minigpt_v2", True), ("minigpt_v2", False), ("moe_llava", True), ("moe_llava", False)]
)
def test_a_step_waits_once(family: str, graphs: bool, gpus: Gpus, monkeypatch: pytest.MonkeyPatch) -> None:
    if not graphs:
        without_graphs(monkeypatch)
    with start(endless(load(family))) as engine:
        assert (engine.stats().steps_captured > 0) == graphs
        assert [waits_per_token(engine, sampling, gpus) for sampling in (GREEDY, DRAWN)] == [1, 1]


@pytest.mark.parametrize("family", ["minigpt_v2", "moe_llava"])
def test_a_captured_step_is_one_graph_and_a_choice(family: str, gpus: Gpus, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the number of layers: what is launched beside the graph are its inputs, and the choice of a token."""
    model = endless(load(family))
    layers = model.language_model.config.get_text_config().num_hidden_layers
    with start(model) as engine:
        captured = counts_per_token(engine, GREEDY, gpus)
    without_graphs(monkeypatch)
    with start(model) as engine:
        eager = counts_per_token(engine, GREEDY, gpus)
    assert (captured.graphs, eager.graphs) == (1, 0)
    assert captured.launches < 45
    assert eager.launches > captured.launches + 15 * layers


@pytest.mark.parametrize(
    ("family", "quantization"), [("minigpt_v2", "8bit"), ("tinygpt_v", "4bit"), ("moe_llava", "4bit")]
)
def test_quantized_weights_answer_with_a_penalty(family: str, quantization: str, gpus: Gpus) -> None:
    """bitsandbytes waits in each of its 8-bit layers, for outliers; experts that are layers wait for who chose them."""
    model = endless(load(family, quantization=quantization))
    assert {str(parameter.device) for parameter in model.parameters()} == {"cuda:0"}
    modules = list(model.language_model.modules())
    layers = sum(isinstance(module, bitsandbytes.nn.Linear8bitLt | bitsandbytes.nn.Linear4bit) for module in modules)
    assert layers >= 20
    own = layers if quantization == "8bit" else sum(isinstance(module, LinearExperts) for module in modules)
    with start(model) as engine:
        assert engine.stats().steps_captured == 0
        assert last(engine, question(0), GREEDY).num_new_tokens == GREEDY.max_new_tokens
        assert [waits_per_token(engine, sampling, gpus) for sampling in (GREEDY, DRAWN)] == [1 + own] * 2
