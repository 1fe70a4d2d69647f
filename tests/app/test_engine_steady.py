"""Chats are decoded without pages, and nobody can tell: same answers, same pages afterwards, same manners."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import MistralConfig, MistralForCausalLM

from app.engine import ChatEngine
from app.engine_loop import LoopStopped
from app.engine_steady import SteadyDecoder
from benchmarks import random_models
from models.conversation import Sampling, Turn
from models.generation import generate
from models.vision_language_model import VisionLanguageModel
from tests.app.test_engine import together
from tests.app.test_engine_limits import assert_idle, eventually, talk_forever
from tests.app.tiny_model import GREEDY, ask, picture, prompt_tokens, tiny_model

PAGE = 8

pytestmark = pytest.mark.usefixtures("quick")


def start(model: VisionLanguageModel, **options: Any) -> ChatEngine:
    return ChatEngine(model, max_concurrent=4, page_size=PAGE, max_batch_tokens=64, update_interval=0, **options)


def text(engine: ChatEngine, turns: tuple[Turn, ...], sampling: Sampling = GREEDY) -> str:
    return list(engine.stream(turns, sampling))[-1].text


def steady_of(engine: ChatEngine) -> SteadyDecoder:
    manager = engine._loop._manager
    assert manager is not None
    assert manager.steady is not None
    return manager.steady


def goes_on(steady: SteadyDecoder) -> bool:
    before = steady.num_tokens
    return eventually(lambda: steady.num_tokens > before)


def without_steady(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.engine_batching.can_decode_steadily", lambda _: False)


def full_pages(engine: ChatEngine) -> dict[int, list[Tensor]]:
    """Keys and values of every page that a later question can find, by the hash of what it says."""
    assert engine._loop._manager is not None
    processor = engine._loop._manager.batch_processor
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
    with start(model) as engine:
        assert [answer.text for answer in together(engine, chats, samplings)] == [answer.text for answer in expected]
        # All but the few steps in which prompts are read.
        assert steady_of(engine).num_tokens > 0.7 * sum(len(answer.ids) for answer in expected)
        assert_idle(engine)


@pytest.mark.parametrize("extra", range(PAGE))
def test_any_length_of_prompt_and_answer(model: VisionLanguageModel, extra: int) -> None:
    chat, sampling = ask("x" * (20 + extra)), replace(GREEDY, max_new_tokens=12 + 2 * extra)
    with start(model) as engine:
        assert text(engine, chat, sampling) == generate(model, [chat], sampling)[0].text
        assert engine.stats().pages_in_use == 0


def test_its_room_grows(model: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.engine_contiguous.ROOM", 4)
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
        assert engine._loop._manager is not None
        assert engine._loop._manager.steady is None


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
    """Alone, in company, alone again: each answer is that of `generate`."""
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


def test_without_a_page_for_the_next_token_the_library_decides(
    model: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampling, refused = replace(GREEDY, max_new_tokens=60), []
    with start(model) as engine:
        cache = steady_of(engine)._paged
        can_store = cache.can_store_request_tokens

        def refuse_each_first_time(state: Any, count: int, dry_run: bool = False) -> bool:
            if state.generated_tokens and state.position_offset not in refused:
                refused.append(state.position_offset)
                return False
            return can_store(state, count, dry_run)

        monkeypatch.setattr(cache, "can_store_request_tokens", refuse_each_first_time)
        assert text(engine, ask("Go on"), sampling) == generate(model, [ask("Go on")], sampling)[0].text
        assert len(refused) > 5
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
        manager = engine._loop._manager
    assert manager is not None
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


def test_several_without_memory_for_their_copies(model: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """One chat is decoded without pages, two with them."""
    monkeypatch.setattr("app.engine_contiguous.ROOM", 8)
    chats, sampling = [ask(f"question {number}", picture(number)) for number in range(2)], GREEDY
    expected = [generate(model, [chat], sampling)[0] for chat in chats]
    with start(model) as engine:
        steady = steady_of(engine)
        alone = prompt_tokens(model, chats[0]) + len(expected[0].ids) + 8
        monkeypatch.setattr(steady._cache, "_max_tokens", alone)
        assert text(engine, chats[0]) == expected[0].text
        decoded = steady.num_tokens
        assert decoded == len(expected[0].ids) - 1
        answers = together(engine, chats, [sampling] * 2)
        assert [answer.text for answer in answers] == [answer.text for answer in expected]
        assert steady.num_tokens - decoded < len(expected[0].ids)


def test_sliding_windows_stay_with_the_library() -> None:
    model = tiny_model()
    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=259, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, sliding_window=16, eos_token_id=2, initializer_range=0.4,
    )  # fmt: skip
    model.language_model = MistralForCausalLM(config).eval()
    expected = generate(model, [ask("Go on")], GREEDY)[0].text
    with start(model) as engine:
        assert text(engine, ask("Go on")) == expected
        assert engine._loop._manager is not None
        assert engine._loop._manager.steady is None


def test_without_memory_for_a_copy_there_is_none(model: VisionLanguageModel) -> None:
    expected = generate(model, [ask("Go on")], GREEDY)[0].text
    with start(model, kv_bytes=400_000) as engine:  # one conversation and a little
        assert text(engine, ask("Go on")) == expected
        assert engine._loop._manager is not None
        assert engine._loop._manager.steady is None
