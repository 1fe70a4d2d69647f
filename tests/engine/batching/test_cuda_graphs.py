"""Replayed decoding steps. Without a GPU a "graph" is the step's own code over the very tensors it was captured with,
which is what a CUDA graph does: the same shapes, the same addresses, whatever they hold by then."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from torch import Tensor

import engine.batching.generation_loop as loop
import engine.batching.manager as batching
from engine.batching.cuda_graphs import GraphedRunner, can_use_graphs
from engine.chat_engine import ChatEngine
from engine.generate import generate
from models.vision_language_model import VisionLanguageModel
from tests.engine.batching.helpers import manager_of
from tests.tiny_model import GREEDY, ask, picture

pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture
def captures(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let the engine capture and replay on the CPU; counts replays, one entry per graph."""
    replays: list[int] = []

    def capture(step: Callable[[], Tensor], _: Any) -> Callable[[], Tensor]:
        number = len(replays)
        replays.append(0)

        def replay() -> Tensor:
            replays[number] += 1
            return step()

        return replay

    monkeypatch.setattr(loop, "can_use_graphs", lambda _: True)
    monkeypatch.setattr(batching, "GraphedRunner", lambda runner: GraphedRunner(runner, capture=capture))
    return replays


def test_replayed_steps_give_the_answers_of_generate(
    model: VisionLanguageModel, captures: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    asked = [ask("what is " * (1 + n), picture(n)) for n in range(3)]
    expected = [generate(model, [turns], GREEDY)[0].text for turns in asked]
    with ChatEngine(model, max_concurrent=4, page_size=8) as engine:
        captured = len(captures)
        assert captured > 3
        assert f"{captured} of {captured} decoding steps captured" in capsys.readouterr().out
        streams = [engine.stream(turns, GREEDY) for turns in asked]
        answers = [list(stream)[-1].text for stream in streams]
        for turns, text in zip(asked, expected, strict=True):
            assert list(engine.stream(turns, GREEDY))[-1].text == text
    assert answers == expected
    assert len(captures) == captured, "a shape was not captured at the start"
    assert sum(captures) > captured + 24 * 3, "steps were not replayed"


def test_capturing_leaves_the_cache_as_if_nobody_had_asked_yet(model: VisionLanguageModel, captures: list[int]) -> None:
    with ChatEngine(model, max_concurrent=4, page_size=8) as engine:
        assert captures
        processor = manager_of(engine).batch_processor
        assert processor is not None
        pool = processor.cache.pool
        assert pool.num_free_sectors == pool.num_sectors
        assert engine.stats().pages_kept == engine.stats().pages_in_use == 0


def test_where_capturing_fails_the_start_says_so_and_answers_come_all_the_same(
    model: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def capture(step: Callable[[], Tensor], _: Any) -> Callable[[], Tensor]:
        return lambda: step() + 1  # a replay that gives other values

    monkeypatch.setattr(loop, "can_use_graphs", lambda _: True)
    monkeypatch.setattr(batching, "GraphedRunner", lambda runner: GraphedRunner(runner, capture=capture))
    with ChatEngine(model, max_concurrent=2, page_size=8) as engine:
        assert "CUDA graphs do not work here" in capsys.readouterr().out
        answer = list(engine.stream(ask("hi"), GREEDY))[-1].text
    assert answer == generate(model, [ask("hi")], GREEDY)[0].text


def test_steps_with_a_token_for_each_request_at_most_are_padded(model: VisionLanguageModel) -> None:
    with ChatEngine(model, max_concurrent=4, page_size=8) as engine:
        processor = manager_of(engine).batch_processor
        assert processor is not None
        runner = GraphedRunner(processor.model_runner, capture=lambda step, _: step)
        assert runner.maybe_pad_inputs(3, 300, False) == (4, 512)
        assert runner.pad_inputs
        assert runner.maybe_pad_inputs(4, 10, False) == (4, 256)
        for step in ((5, 300, False), (3, 0, False), (3, 300, True)):  # prefill, a new prompt, the library's fast path
            assert runner.maybe_pad_inputs(*step) == step[:2]
            assert not runner.pad_inputs
        runner.failure = RuntimeError("no graphs")
        assert runner.maybe_pad_inputs(3, 300, False) == (3, 300)


def test_a_cpu_has_no_graphs(model: VisionLanguageModel) -> None:
    assert not can_use_graphs(model.language_model)
    with ChatEngine(model, max_concurrent=1, page_size=8) as engine:
        processor = manager_of(engine).batch_processor
        assert processor is not None
        assert not isinstance(processor.model_runner, GraphedRunner)
