"""A ChatModel over `generate`: what it prints while it answers, and what it says of a short context."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from engine.generating_model import GeneratingModel
from models.vision_language_model import VisionLanguageModel
from tests.tiny_model import GREEDY, ScriptedLlama, ask, prompt_tokens, say

pytestmark = pytest.mark.usefixtures("quick")


def test_an_answer_comes_as_it_grows_and_never_with_its_stop_string(model: VisionLanguageModel) -> None:
    say(model, prompt_tokens(model, ask("hi")), "a red ball###")
    texts = [answer.text for answer in GeneratingModel(model).stream(ask("hi"), GREEDY)]
    assert texts[0] == "a"
    assert texts[-1] == "a red ball"
    assert not any("#" in text for text in texts)
    assert len(texts) > 5


def test_closing_ends_it_at_its_next_step(model: VisionLanguageModel) -> None:
    steps = threading.Semaphore(0)
    taken = []

    def step() -> None:
        steps.acquire()
        taken.append(1)

    say(model, prompt_tokens(model, ask("hi")), "a" * 400)
    assert isinstance(model.language_model, ScriptedLlama)
    model.language_model.on_forward = step
    stream = GeneratingModel(model).stream(ask("hi"), replace(GREEDY, max_new_tokens=300))
    steps.release(5)
    next(stream)
    reader = threading.Thread(target=lambda: list(stream))
    reader.start()
    stream.close()  # from another thread than the one that waits in it
    steps.release(300)
    reader.join(20)
    assert not reader.is_alive()
    assert len(taken) < 10


def test_an_answer_that_ends_with_a_stop_string_was_not_cut(model: VisionLanguageModel) -> None:
    long = ask("x" * 400)
    room = model.info.context_tokens - prompt_tokens(model, long)
    say(model, prompt_tokens(model, long), "a" * (room - 3) + "###")
    *_, answer = GeneratingModel(model).stream(long, replace(GREEDY, max_new_tokens=1000))
    assert (answer.text, answer.finish_reason, answer.notices) == ("a" * (room - 3), "stop", ())


@pytest.mark.parametrize(("room", "reason"), [(600, "stop"), (490, "length")])
def test_an_answer_cut_by_the_context_says_so(model: VisionLanguageModel, room: int, reason: str) -> None:
    long = ask("x" * 400)
    size = prompt_tokens(model, long)
    say(model, size, "a" * 60 if reason == "stop" else "a" * 600)
    *_, answer = GeneratingModel(model).stream(long, replace(GREEDY, max_new_tokens=room))
    assert answer.finish_reason == reason
    assert [f"cut at {512 - size} tokens" in notice for notice in answer.notices] == [True] * (reason == "length")
