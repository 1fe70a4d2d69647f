"""Decode steps over a contiguous cache: the same answers, the same pages afterwards, the same ways to end."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks import random_models
from engine.batching.generation_loop import LoopStopped
from engine.chat_engine import ChatEngine
from engine.generate import generate
from models.conversation import Sampling, Turn
from models.vision_language_model import VisionLanguageModel
from tests.engine.batching.helpers import goes_on, manager_of, steady_of
from tests.engine.helpers import PAGE, answers_in_order, assert_idle, last, start, talk_forever
from tests.tiny_model import GREEDY, ask, picture

pytestmark = pytest.mark.usefixtures("quick")


def text(engine: ChatEngine, turns: tuple[Turn, ...], sampling: Sampling = GREEDY) -> str:
    return last(engine, turns, sampling).text


def without_steady(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.batching.manager.can_decode_steadily", lambda _: False)


def full_pages(engine: ChatEngine) -> dict[int, list[Tensor]]:
    """Keys and values of every page that a later question can find, by the hash of what it says."""
    processor = manager_of(engine).batch_processor
    assert processor is not None
    (allocator,) = processor.cache.cache_allocators.values()
    pages: dict[int, list[Tensor]] = {}
    for number, page in allocator.ledger.hash_to_block.items():
        first = page * allocator.block_physical_stride
        views: Any = allocator._kv_token_views  # type: ignore[attr-defined]
        pages[number] = [view[first : first + PAGE].clone() for layer in views.values() for view in layer]
    return pages


@pytest.mark.parametrize("backbone", random_models.BACKBONES)
def test_every_backbone_answers_as_generate_does(backbone: str) -> None:
    model = random_models.random_model(backbone, random_models.SMALL, context_tokens=256)
    chat = ask("what is it", random_models.picture(1))
    for penalty, count in ((1.0, 40), (1.3, 24)):
        sampling = replace(GREEDY, max_new_tokens=count, repetition_penalty=penalty)
        expected = generate(model, [chat], sampling)[0]
        with start(model) as engine:
            assert text(engine, chat, sampling) == expected.text
            assert steady_of(engine).num_tokens == len(expected.ids) - 1 > 0  # the prompt's step gives the first


@pytest.mark.parametrize("backbone", random_models.BACKBONES)
def test_several_chats_of_any_lengths_on_every_backbone(backbone: str) -> None:
    model = random_models.random_model(backbone, random_models.SMALL, context_tokens=256)
    chats = [ask("what is it " * length, random_models.picture(length)) for length in (1, 7, 3, 4)]
    samplings = [replace(GREEDY, max_new_tokens=count, repetition_penalty=1.2) for count in (40, 40, 25, 33)]
    expected = [generate(model, [chat], sampling)[0] for chat, sampling in zip(chats, samplings, strict=True)]
    steps_with_pages: list[int] = []

    def note(_: nn.Module, __: object, arguments: dict[str, Any]) -> None:
        if "past_key_values" not in arguments:
            steps_with_pages.append(arguments["input_ids"].numel())

    with start(model) as engine:
        hook = model.language_model.register_forward_pre_hook(note, with_kwargs=True)
        answers = answers_in_order(engine, chats, samplings)
        hook.remove()
        assert [answer.text for answer in answers] == [answer.text for answer in expected]
        # A step with pages reads a part of some prompt: whenever there is nothing but to decode, no page is touched.
        assert min(steps_with_pages) > len(chats)
        computed = sum(answer.num_prompt_tokens + answer.num_new_tokens - 1 for answer in answers)
        computed -= engine.stats().prompt_tokens_reused
        assert sum(steps_with_pages) + steady_of(engine).num_tokens == computed
        assert_idle(engine)


@pytest.mark.parametrize("extra", range(PAGE))
def test_any_length_of_prompt_and_answer(model: VisionLanguageModel, extra: int) -> None:
    chat, sampling = ask("x" * (20 + extra)), replace(GREEDY, max_new_tokens=12 + 2 * extra)
    with start(model) as engine:
        answer = last(engine, chat, sampling)
        assert answer.text == generate(model, [chat], sampling)[0].text
        assert engine.stats().pages_in_use == 0
        # All full pages; the last token was never fed to the model.
        assert engine.stats().pages_kept == (answer.num_prompt_tokens + answer.num_new_tokens - 1) // PAGE


def test_its_room_grows(model: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.batching.contiguous_cache.ROOM", 4)
    sampling = replace(GREEDY, max_new_tokens=100)
    with start(model) as engine:
        assert text(engine, ask("Go on"), sampling) == generate(model, [ask("Go on")], sampling)[0].text


def test_drawn_answers_are_those_of_the_batch(model: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    samplings = [Sampling(temperature=1.0, top_p=0.9, seed=i, max_new_tokens=30) for i in range(4)]
    with start(model) as engine:
        alone = [text(engine, ask("Go on", picture(1)), sampling) for sampling in samplings]
    without_steady(monkeypatch)
    with start(model) as engine:
        assert [text(engine, ask("Go on", picture(1)), sampling) for sampling in samplings] == alone
        assert manager_of(engine).steady is None


def test_later_turns_find_the_pages_that_the_batch_would_have_left(
    model: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat, left = ask("Tell me about it.", picture(1)), []
    for turned_off in (False, True):
        if turned_off:
            without_steady(monkeypatch)
        with start(model) as engine:
            first = text(engine, chat, replace(GREEDY, max_new_tokens=45))
            pages, kept = full_pages(engine), engine.stats().pages_kept
            reused = engine.stats().prompt_tokens_reused
            second = (*chat, Turn("assistant", first), Turn("user", "And what else?"))
            answer = text(engine, second)
            left.append((pages, kept, engine.stats().prompt_tokens_reused - reused, first, answer))
            assert answer == generate(model, [second], GREEDY)[0].text
            assert_idle(engine)
    (pages, kept, reused, *texts), (theirs, their_kept, their_reused, *their_texts) = left
    assert texts == their_texts
    assert pages.keys() == theirs.keys()
    assert (kept, reused) == (their_kept, their_reused)
    assert kept == len(pages) > 8
    for number, tensors in pages.items():
        for mine, other in zip(tensors, theirs[number], strict=True):
            torch.testing.assert_close(mine, other)


def test_others_join_and_leave(model: VisionLanguageModel) -> None:
    """A batch that grows and shrinks: each answer is that of `generate`."""
    long, sampling = ask("A long answer, please.", picture(1)), replace(GREEDY, max_new_tokens=300)
    expected = generate(model, [long], sampling)[0].text
    others = [ask(f"question {number}", picture(number)) for number in range(3)]
    answers = [generate(model, [other], GREEDY)[0].text for other in others]
    with start(model) as engine:
        steady = steady_of(engine)
        with engine.stream(long, sampling) as stream:
            for other, answer in zip(others, answers, strict=True):
                next(stream)
                assert goes_on(steady)
                assert text(engine, other) == answer
            final = list(stream)[-1]
        assert (final.text, final.num_new_tokens) == (expected, 300)
        assert 20 < steady.num_tokens < 300 + 3 * 24
        assert_idle(engine)


def test_a_stopped_answer_leaves_its_pages(model: VisionLanguageModel) -> None:
    talk_forever(model, seconds_per_token=0.001)
    chat = ask("Tell me about it.")
    with start(model) as engine:
        with engine.stream(chat, replace(GREEDY, max_new_tokens=400)) as stream:
            said = next(answer for answer in stream if answer.num_new_tokens > 40)
        assert_idle(engine)
        assert len(said.text) < 400
        kept = engine.stats().pages_kept
        again = (*chat, Turn("assistant", said.text), Turn("user", "Go on"))
        text(engine, again)
        assert engine.stats().prompt_tokens_reused >= 5 * PAGE + len(chat[0].text)
        assert kept > 5
        assert_idle(engine)


def test_an_error_ends_the_answer_and_the_next_question_works(model: VisionLanguageModel) -> None:
    logging.getLogger("ContinuousBatchingLogger").setLevel(logging.CRITICAL)
    language_model: Any = model.language_model
    expected = generate(model, [ask("Go on")], GREEDY)[0].text
    with start(model) as engine:
        steady = steady_of(engine)

        def broken() -> None:
            if steady.num_tokens == 5 and engine.stats().restarts == 0:
                raise ZeroDivisionError("the model broke")

        language_model.on_forward = broken
        with pytest.raises(LoopStopped):
            text(engine, ask("Go on"))
        assert text(engine, ask("Go on")) == expected
        assert steady_of(engine) is not steady
        assert_idle(engine)
        manager = manager_of(engine)
    assert manager.steady is None  # or an answer that somebody keeps would keep the pages


def test_one_of_several_leaves(model: VisionLanguageModel) -> None:
    """The others' answers are those of `generate`, and its pages are there for its next question."""
    talk_forever(model, seconds_per_token=0.001)
    chats = [ask(f"Tell me about it, {'please ' * number}", picture(number)) for number in range(3)]
    sampling = replace(GREEDY, max_new_tokens=300)
    with start(model) as engine, ThreadPoolExecutor(2) as pool:
        others = [pool.submit(text, engine, chat, sampling) for chat in chats[:2]]
        with engine.stream(chats[2], sampling) as stream:
            said = next(answer for answer in stream if answer.num_new_tokens > 60)
        assert [len(other.result()) for other in others] == [300, 300]
        assert_idle(engine)
        assert steady_of(engine).num_tokens > 400
        before = engine.stats().prompt_tokens_reused
        text(engine, (*chats[2], Turn("assistant", said.text), Turn("user", "Go on")))
        assert engine.stats().prompt_tokens_reused - before >= 5 * PAGE + len(chats[2][0].text)
        assert_idle(engine)
