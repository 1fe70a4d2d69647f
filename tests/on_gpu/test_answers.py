"""The engine on a GPU answers as on the CPU, with its decode steps as CUDA graphs and without.

Every family is asked at least once, and every kind of language model (Llama, Phi, sparse experts) in both ways.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.chat_engine import ChatEngine
from models.conversation import Turn
from tests.engine.batching.helpers import steady_of
from tests.engine.helpers import assert_idle, last
from tests.on_gpu.tiny_families import GREEDY, Gpus, cpu_texts, load, question, start, without_graphs
from tests.waiting import eventually
from training.evaluation import scene_accuracy


@pytest.fixture
def steady(monkeypatch: pytest.MonkeyPatch) -> None:
    without_graphs(monkeypatch)


def together(engine: ChatEngine, passes: list[int]) -> tuple[str, ...]:
    """The answers to three questions that come at once, with their pictures in one pass of the vision tower."""
    embeds: Callable[..., Any] = engine._model.image_embeds
    engine._model.image_embeds = lambda pixels: passes.append(len(pixels)) or embeds(pixels)  # type: ignore[assignment, func-returns-value, method-assign]
    with ThreadPoolExecutor(3) as pool:
        with engine._encoder.lock:
            answers = [pool.submit(last, engine, question(number), GREEDY) for number in range(3)]
            assert eventually(lambda: len(engine._encoder._waiting) == 3)
        return tuple(answer.result().text for answer in answers)


def leave_early(engine: ChatEngine) -> None:
    """Close an answer while it is written."""
    with engine.stream(question(0), replace(GREEDY, max_new_tokens=200)) as stream:
        next(stream)
    assert_idle(engine)


@pytest.mark.parametrize("family", ["minigpt_v2", "tinygpt_v", "mini_gemini", "moe_llava"])
def test_replayed_steps_answer_as_the_cpu_does(family: str, gpus: Gpus) -> None:
    passes: list[int] = []
    with start(load(family), max_concurrent=3) as engine:
        captured = engine.stats().steps_captured
        assert captured == gpus[0].counts.captures > 2
        replayed = gpus[0].counts.replays
        assert together(engine, passes) == cpu_texts(family)
        assert passes == [3]
        assert gpus[0].counts.replays - replayed > 8
        assert gpus[0].counts.captures == captured, "a shape was not captured at the start"
        leave_early(engine)
        assert last(engine, question(1), GREEDY).text == cpu_texts(family)[1]


@pytest.mark.usefixtures("steady")
@pytest.mark.parametrize("family", ["minigpt4", "tinygpt_v", "moe_llava"])
def test_steady_steps_answer_as_the_cpu_does(family: str) -> None:
    passes: list[int] = []
    with start(load(family, "cuda:1"), max_concurrent=3) as engine:
        assert together(engine, passes) == cpu_texts(family)
        assert passes == [3]
        leave_early(engine)
        first = cpu_texts(family)[0]
        assert last(engine, question(0), GREEDY).text == first
        reused = engine.stats().prompt_tokens_reused
        last(engine, (*question(0), Turn("assistant", first), Turn("user", "And what else?")), GREEDY)
        assert engine.stats().prompt_tokens_reused - reused > engine._model.num_image_tokens
        assert steady_of(engine).num_tokens > 5
        assert_idle(engine)


@pytest.mark.usefixtures("steady")
def test_the_routing_view_is_that_of_the_cpu() -> None:
    traces = []
    for device in ("cpu", "cuda:0"):
        with start(load("moe_llava", device)) as engine:
            traces.append(engine.routing(question(0), cpu_texts("moe_llava")[0], GREEDY))
    assert traces[0] == traces[1]
    assert traces[0].layers


@pytest.mark.usefixtures("steady")
def test_scenes_are_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, gpus: Gpus) -> None:
    """`auto` is the GPU here, in bfloat16; the report says so."""
    monkeypatch.setattr(scene_accuracy, "CONCURRENT", 4)
    monkeypatch.setattr(scene_accuracy, "BOX_TASKS", ("refer",))
    monkeypatch.setattr(scene_accuracy, "VQA_MAKERS", {"count": None, "colour": None, "shape": None})
    monkeypatch.setattr(scene_accuracy, "VQA_GOALS", ("count", "colour", "shape"))
    report = tmp_path / "report.json"
    arguments = ["--cfg-path", "eval_configs/tiny_moe_llava.yaml", "--scenes", "1", "--output", str(report)]
    assert scene_accuracy.main(arguments) == 0
    assert '"device": "Pretended GPU"' in report.read_text()
    assert gpus[0].counts.reads > 20


@pytest.mark.usefixtures("steady")
def test_several_threads_use_the_device_at_once() -> None:
    """Threads that torch did not start see it too, and the current device is each one's own."""
    seen: dict[str, str] = {}

    def look(device: str) -> None:
        torch.cuda.set_device(device)
        seen[device] = str(torch.zeros(1, device="cuda").device)

    threads = [threading.Thread(target=look, args=(f"cuda:{number}",)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == {"cuda:0": "cuda:0", "cuda:1": "cuda:1"}
    assert torch.cuda.current_device() == 0
