"""Without a generation thread, who reads an answer runs the loop: same answers, any end, and nothing runs meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest

from engine.batching.generation_loop import LoopStopped
from engine.chat_engine import ChatEngine
from engine.generate import generate
from models.conversation import Sampling, Turn
from models.vision_language_model import VisionLanguageModel
from tests.engine.helpers import assert_idle, language_model, last, start, talk_forever
from tests.tiny_model import GREEDY, ask, picture

pytestmark = pytest.mark.usefixtures("quick")
LONG = Sampling(temperature=0, repetition_penalty=1.0, max_new_tokens=200)


@pytest.fixture
def engine(model: VisionLanguageModel) -> Iterator[ChatEngine]:
    with start(model, in_caller=True) as engine:
        yield engine


def test_answers_are_those_of_generate_and_no_thread_was_started(model: VisionLanguageModel) -> None:
    before = threading.active_count()
    with start(model, in_caller=True) as engine:
        chat = ask("What is it?", picture(1))
        first = last(engine, chat)
        assert first.text == generate(model, [chat], GREEDY)[0].text
        again = last(engine, (*chat, Turn("assistant", first.text), Turn("user", "Sure?")))
        assert again.num_cached_tokens > 0  # pages outlive the answer
        assert threading.active_count() == before


def test_an_answer_comes_in_parts_and_nothing_runs_between_them(engine: ChatEngine, model: VisionLanguageModel) -> None:
    talk_forever(model)
    stream = engine.stream(ask("?"), LONG)
    texts = [next(stream).text for _ in range(5)]
    assert all(later.startswith(earlier) for earlier, later in pairwise(texts))
    assert len(texts[-1]) < 20  # what is not read is not generated
    calls: list[int] = []
    language_model(model).on_forward = lambda: calls.append(1)
    time.sleep(0.05)
    assert calls == []
    stream.close()
    assert next(stream, None) is None
    language_model(model).script = None
    assert last(engine, ask("What?")).finish_reason is not None  # its first step takes the closed one out
    assert_idle(engine)


def test_an_update_holds_all_that_came_within_its_interval(model: VisionLanguageModel) -> None:
    talk_forever(model)
    with start(model, in_caller=True, update_interval=60) as engine:
        assert [len(answer.text) for answer in engine.stream(ask("?"), LONG)][-1] == 200


def test_it_can_be_closed_by_another_thread(engine: ChatEngine, model: VisionLanguageModel) -> None:
    began = threading.Event()
    talk_forever(model, seconds_per_token=0.001)
    stream = engine.stream(ask("?"), Sampling(temperature=0, max_new_tokens=10**6))

    def read() -> int:
        texts = []
        for answer in stream:
            texts.append(answer.text)
            began.set()
        return len(texts)

    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(read)
        assert began.wait(60)
        stream.close()
        assert reading.result(60) > 0


def test_a_second_reader_waits_for_its_turn(engine: ChatEngine, model: VisionLanguageModel) -> None:
    chats = [ask(f"question {number}") for number in range(3)]
    alone = [generate(model, [chat], GREEDY)[0].text for chat in chats]
    with ThreadPoolExecutor(3) as pool:
        assert [answer.text for answer in pool.map(lambda chat: last(engine, chat), chats)] == alone


def test_after_an_error_the_next_question_starts_anew(engine: ChatEngine, model: VisionLanguageModel) -> None:
    def fail() -> None:
        raise ValueError("broken")

    expected = last(engine, ask("What?")).text
    language_model(model).on_forward = fail
    with pytest.raises(LoopStopped) as caught:
        last(engine, ask("What?"))
    assert isinstance(caught.value.__cause__, ValueError)
    language_model(model).on_forward = None
    assert last(engine, ask("What?")).text == expected
    assert engine.stats().restarts == 1
    engine.close()
    with pytest.raises(LoopStopped):
        last(engine, ask("What?"))
