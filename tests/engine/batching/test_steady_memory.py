"""Where decode steps stay with the library's pages, or go back to them: short memory, other kinds of attention."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from engine.generate import generate
from models.vision_language_model import VisionLanguageModel
from tests.engine.batching.faults.one_broken import sliding_model
from tests.engine.batching.helpers import manager_of, steady_of
from tests.engine.helpers import answers_in_order, assert_idle, language_model, last, start, talk_forever
from tests.tiny_model import GREEDY, ask, picture, prompt_tokens

pytestmark = pytest.mark.usefixtures("quick")


def test_an_answer_that_ends_lets_waiting_requests_in(model: VisionLanguageModel) -> None:
    """The library stops admitting requests when pages run out, until one ends, wherever that one is decoded."""
    talk_forever(model)
    seen: list[tuple[bool, int]] = []
    with start(model) as engine:
        steady, processor = steady_of(engine), manager_of(engine).batch_processor
        assert processor is not None
        scheduler = processor.scheduler

        def stop_admission_once() -> None:
            if steady.num_tokens:
                scheduler.block_new_requests |= not seen
                seen.append((scheduler.block_new_requests, len(scheduler.active_requests)))

        language_model(model).on_forward = stop_admission_once
        samplings = [replace(GREEDY, max_new_tokens=count) for count in (30, 60)]
        answers_in_order(engine, [ask("a"), ask("b")], samplings)
        assert_idle(engine)
    assert set(seen) == {(True, 2), (False, 1)}


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
        assert last(engine, ask("Go on"), sampling).text == generate(model, [ask("Go on")], sampling)[0].text
        assert len(refused) > 5
        assert_idle(engine)


def test_several_without_memory_for_their_copies(model: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """One chat is decoded without pages, two with them."""
    monkeypatch.setattr("engine.batching.contiguous_cache.ROOM", 8)
    chats, sampling = [ask(f"question {number}", picture(number)) for number in range(2)], GREEDY
    expected = [generate(model, [chat], sampling)[0] for chat in chats]
    with start(model) as engine:
        steady = steady_of(engine)
        alone = prompt_tokens(model, chats[0]) + len(expected[0].ids) + 8
        monkeypatch.setattr(steady._cache, "_max_tokens", alone)
        assert last(engine, chats[0]).text == expected[0].text
        decoded = steady.num_tokens
        assert decoded == len(expected[0].ids) - 1
        answers = answers_in_order(engine, chats, [sampling] * 2)
        assert [answer.text for answer in answers] == [answer.text for answer in expected]
        assert steady.num_tokens - decoded < len(expected[0].ids)


def test_sliding_windows_stay_with_the_library() -> None:
    model = sliding_model()
    expected = generate(model, [ask("Go on")], GREEDY)[0].text
    with start(model) as engine:
        assert last(engine, ask("Go on")).text == expected
        assert manager_of(engine).steady is None


def test_without_memory_for_a_copy_there_is_none(model: VisionLanguageModel) -> None:
    expected = generate(model, [ask("Go on")], GREEDY)[0].text
    with start(model, kv_bytes=400_000) as engine:  # one conversation and a little
        assert last(engine, ask("Go on")).text == expected
        assert manager_of(engine).steady is None
