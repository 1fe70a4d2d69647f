"""What the tests of the engine share: engines over the tiny model, and ways to ask them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import pytest

from engine.answer_stream import AnswerStream
from engine.chat_engine import ChatEngine
from engine.stats import IN_USE, EngineStats
from models.conversation import Answer, Sampling, Turn
from models.vision_language_model import VisionLanguageModel
from tests.tiny_model import GREEDY, ScriptedLlama
from tests.waiting import eventually

PAGE = 8

Outcome = TypeVar("Outcome")


def start(model: VisionLanguageModel, **options: Any) -> ChatEngine:
    """An engine for four chats, with small pages and steps, so that short texts fill several."""
    settings = {"max_concurrent": 4, "page_size": PAGE, "max_batch_tokens": 64, "update_interval": 0}
    return ChatEngine(model, **(settings | options))


def last(engine: ChatEngine, turns: Sequence[Turn], sampling: Sampling = GREEDY) -> Answer:
    """The complete answer to a question."""
    return end_of(engine.stream(turns, sampling))


def end_of(stream: AnswerStream) -> Answer:
    """The complete answer of a stream."""
    return list(stream)[-1]


def together(engine: ChatEngine, chats: Sequence[Sequence[Turn]], samplings: Sequence[Sampling]) -> list[Answer]:
    """The complete answers to questions that are asked at the same time."""
    with ThreadPoolExecutor(len(chats)) as pool:
        return list(pool.map(lambda chat, sampling: last(engine, chat, sampling), chats, samplings))


def answers_in_order(
    engine: ChatEngine, chats: Sequence[Sequence[Turn]], samplings: Sequence[Sampling]
) -> list[Answer]:
    """Complete answers to questions that are in the loop, in this order, before its first step ends."""
    return in_order(engine, chats, samplings, last)


def in_order(
    engine: ChatEngine,
    chats: Sequence[Sequence[Turn]],
    samplings: Sequence[Sampling],
    answer: Callable[[ChatEngine, Sequence[Turn], Sampling], Outcome],
) -> list[Outcome]:
    """What `answer` makes of each, as `answers_in_order`."""
    began, may_go_on = threading.Event(), threading.Event()
    sampler = engine._loop._sampler
    prepare = sampler.prepare_tensor_args

    def wait(requests: Any) -> Any:
        began.set()
        assert may_go_on.wait(60)
        return prepare(requests)

    with ThreadPoolExecutor(len(chats)) as pool, pytest.MonkeyPatch.context() as patched:
        patched.setattr(sampler, "prepare_tensor_args", wait)  # which every step calls, replayed ones as well
        answers = []
        for number, (chat, sampling) in enumerate(zip(chats, samplings, strict=True), start=1):
            answers.append(pool.submit(answer, engine, chat, sampling))
            assert began.wait(60)
            assert eventually(lambda number=number: engine.stats().in_loop == number)  # type: ignore[misc]
        may_go_on.set()
        return [each.result() for each in answers]


def language_model(model: VisionLanguageModel) -> ScriptedLlama:
    """The tiny model's language model, which takes scripts."""
    assert isinstance(model.language_model, ScriptedLlama)
    return model.language_model


def talk_forever(model: VisionLanguageModel, *, seconds_per_token: float = 0.0) -> None:
    """The model says the alphabet over and over, never EOS."""
    language_model(model).script = lambda position: 3 + ord("a") + position % 26
    language_model(model).on_forward = lambda: time.sleep(seconds_per_token)


def hold_steps(model: VisionLanguageModel) -> threading.Event:
    """Every forward pass of the language model waits until the event is set."""
    may_go_on = threading.Event()

    def wait() -> None:
        assert may_go_on.wait(60)

    language_model(model).on_forward = wait
    return may_go_on


def is_idle(stats: EngineStats) -> bool:
    """Whether nothing is in use."""
    return not any(getattr(stats, name) for name in IN_USE)


def assert_idle(engine: ChatEngine) -> None:
    """All that answers took is given back, soon after the last."""
    assert eventually(lambda: is_idle(engine.stats())), engine.stats()
