"""A model whose experts can be full at inference answers as if it were alone, whatever else is asked and cached."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from benchmarks.random_models import SMALL, random_model
from engine.chat_engine import ChatEngine
from engine.generate import generate
from models.conversation import Sampling, Turn
from models.parts.sparse_decoders import SparseDecoder
from models.parts.sparse_moe import SparseLayers
from models.vision_language_model import VisionLanguageModel
from tests.engine.helpers import last

SAMPLING = Sampling(temperature=0, repetition_penalty=1.0, max_new_tokens=12)
COMMON = "Say what you know about all of these things, one after the other, and be exact: "
QUESTIONS = [[Turn("user", COMMON + thing)] for thing in ("circles", "squares and stars", "the number seven", "moons")]


@pytest.fixture
def model() -> VisionLanguageModel:
    """Eight experts, each of which takes a quarter of the choices: a factor made for four."""
    model = random_model("sparse_stablelm", replace(SMALL, num_experts=8), context_tokens=512)
    decoder = model.language_model
    assert isinstance(decoder, SparseDecoder)
    for layer in decoder.sparse_layers.values():
        layer.router.layers = replace(layer.router.layers, eval_capacity_factor=1.0)
    model.info = replace(model.info, answers_alone=True)
    return model


def together(engine: ChatEngine) -> list[str]:
    with ThreadPoolExecutor(len(QUESTIONS)) as pool:
        return [answer.text for answer in pool.map(lambda turns: last(engine, turns, SAMPLING), QUESTIONS)]


def test_answers_are_those_of_each_question_alone(model: VisionLanguageModel) -> None:
    alone = [generate(model, [turns], SAMPLING)[0].text for turns in QUESTIONS]
    with ChatEngine(model, max_concurrent=4, max_queue=4, kv_bytes=1 << 27) as engine:
        assert together(engine) == alone
        assert [last(engine, turns, SAMPLING).text for turns in QUESTIONS] == alone
        assert engine.stats().prompt_tokens_reused == 0


def test_without_this_they_would_be_others(model: VisionLanguageModel) -> None:
    """Or the test above could not fail."""
    alone = [generate(model, [turns], SAMPLING)[0].text for turns in QUESTIONS]
    model.info = replace(model.info, answers_alone=False)
    with ChatEngine(model, max_concurrent=4, max_queue=4, kv_bytes=1 << 27) as engine:
        again = [last(engine, turns, SAMPLING).text for turns in (*QUESTIONS, *QUESTIONS)]
        assert together(engine) != alone or again != [*alone, *alone]


@pytest.mark.parametrize(
    ("experts", "factor", "drops"), [((4, 4), 2.0, False), ((4, 8), 2.0, True), ((8,), 4.0, False), ((4,), 1.9, True)]
)
def test_experts_can_be_full_below_half_as_many_shares_as_experts(
    experts: tuple[int, ...], factor: float, drops: bool
) -> None:
    layers = SparseLayers(indices=tuple(range(len(experts))), num_experts=experts, eval_capacity_factor=factor)
    assert layers.drops_tokens == drops
