"""The engine under pressure: full queues, closed and slow readers, crashes, little memory, many images."""

from __future__ import annotations

import gc
import logging
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch

from engine.answer_stream import AnswerStream
from engine.batching.generation_loop import LoopStopped
from engine.chat_engine import ChatEngine
from engine.generate import generate
from models.conversation import Answer
from models.errors import Busy, NotEnoughMemory
from models.vision_language_model import VisionLanguageModel
from tests.engine.batching.helpers import manager_of
from tests.engine.helpers import assert_idle, end_of, is_idle, language_model, last, talk_forever
from tests.tiny_model import GREEDY, ask, picture, say, tiny_model
from tests.waiting import eventually

LONG = replace(GREEDY, max_new_tokens=240)

pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture
def model() -> VisionLanguageModel:
    model = tiny_model()
    say(model, 0, "")  # EOS at once, unless a test says otherwise
    return model


@pytest.fixture
def engine(model: VisionLanguageModel) -> Iterator[ChatEngine]:
    with ChatEngine(
        model, max_concurrent=2, max_queue=2, page_size=8, max_batch_tokens=64, num_image_slots=3, update_interval=0
    ) as engine:
        yield engine


def test_everything_is_given_back_after_an_answer(engine: ChatEngine) -> None:
    last(engine, ask("hi", picture(1)), GREEDY)
    assert_idle(engine)
    assert engine.stats().images_held == 1


def test_nothing_happens_before_the_first_next(engine: ChatEngine) -> None:
    stream = engine.stream(ask("hi", picture(1)), GREEDY)
    assert is_idle(engine.stats())
    del stream
    assert engine.stats().images_held == 0


@pytest.mark.parametrize("how", ["close", "forget", "with", "throw"])
def test_a_reader_that_leaves_frees_the_model(engine: ChatEngine, model: VisionLanguageModel, how: str) -> None:
    talk_forever(model, seconds_per_token=0.005)
    stream: AnswerStream | None = engine.stream(ask("hi", picture(1)), LONG)
    assert stream is not None
    assert next(stream).text
    assert engine.stats().active == engine.stats().images_pinned == 1
    if how == "close":
        stream.close()
        assert list(stream) == []
    elif how == "with":
        with stream:
            pass
    elif how == "throw":
        with pytest.raises(ZeroDivisionError), stream:
            raise ZeroDivisionError
    stream = None
    gc.collect()
    assert_idle(engine)


def test_a_waiting_reader_can_leave_the_queue(engine: ChatEngine, model: VisionLanguageModel) -> None:
    talk_forever(model, seconds_per_token=0.01)
    running = [engine.stream(ask("hi"), LONG) for _ in range(2)]
    for stream in running:
        next(stream)
    waiting = engine.stream(ask("hi"), LONG)
    threading.Timer(0.2, waiting.close).start()
    assert list(waiting) == [Answer(text="", queue_number=1)]
    assert engine.stats().waiting == 0
    for stream in running:
        stream.close()
    assert_idle(engine)


def test_a_full_queue_is_one_line_with_its_length(engine: ChatEngine, model: VisionLanguageModel) -> None:
    talk_forever(model, seconds_per_token=0.002)
    with ThreadPoolExecutor(4) as pool:
        streams = [engine.stream(ask("hi"), LONG) for _ in range(4)]
        answers = [pool.submit(end_of, stream) for stream in streams]
        assert eventually(lambda: engine.stats().waiting == 2)
        with pytest.raises(Busy, match="2 questions are waiting"):
            next(engine.stream(ask("hi"), LONG))
        assert all(answer.result(timeout=60).finish_reason == "length" for answer in answers)
    assert_idle(engine)


def test_a_slow_reader_slows_nobody(engine: ChatEngine, model: VisionLanguageModel) -> None:
    talk_forever(model)
    slow = engine.stream(ask("hi"), LONG)
    next(slow)
    assert last(engine, ask("you"), LONG).num_new_tokens == 240
    assert eventually(lambda: engine.stats().in_loop == 0)  # the slow one's answer is complete as well
    rest = list(slow)
    assert len(rest) <= 2
    assert rest[-1].num_new_tokens == 240
    assert_idle(engine)


def test_a_crash_reaches_every_reader_and_the_next_question_works(
    engine: ChatEngine, model: VisionLanguageModel, caplog: pytest.LogCaptureFixture
) -> None:
    logging.getLogger("ContinuousBatchingLogger").setLevel(logging.CRITICAL)
    expected = last(engine, ask("hi", picture(1)), GREEDY)
    for _ in range(2):
        last(engine, ask("hi " * 20), GREEDY)
    reused = engine.stats().prompt_tokens_reused
    processor = manager_of(engine).batch_processor
    assert processor is not None
    cache = weakref.ref(processor.cache)
    del processor
    talk_forever(model, seconds_per_token=0.005)
    streams = [engine.stream(ask("hi", picture(i)), LONG) for i in range(3)]
    with ThreadPoolExecutor(3) as pool:
        results = [pool.submit(end_of, stream) for stream in streams]
        assert eventually(lambda: engine.stats().in_loop == 2)

        def broken() -> None:
            if engine.stats().restarts == 0:
                raise ZeroDivisionError("the model broke")

        language_model(model).on_forward = broken
        errors = [result.exception(timeout=30) for result in results]
    told = [error for error in errors if error is not None]
    assert len(told) >= 2  # the third waited and may have found the new loop
    assert all(isinstance(error, LoopStopped) for error in told)
    assert any(isinstance(error.__cause__, ZeroDivisionError) for error in told)
    say(model, 0, "")
    assert last(engine, ask("hi", picture(1)), GREEDY).text == expected.text
    assert engine.stats().restarts == 1
    assert engine.stats().prompt_tokens_reused >= reused > 0
    gc.collect()
    assert cache() is None, "the errors, which their readers keep, keep the old KV cache"
    assert_idle(engine)


def test_an_image_that_can_not_be_encoded_leaves_nothing_behind(
    engine: ChatEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(engine._encoder, "encode", lambda _: 1 // 0)
        with pytest.raises(ZeroDivisionError):
            next(engine.stream(ask("hi", picture(1)), GREEDY))
        assert_idle(engine)
    assert last(engine, ask("hi", picture(1)), GREEDY).finish_reason == "stop"


def test_a_request_that_nobody_reads_is_cancelled_once_it_is_in_a_batch(
    engine: ChatEngine, model: VisionLanguageModel
) -> None:
    """As when its cancellation was read before it: the library has a queue for each."""
    talk_forever(model, seconds_per_token=0.005)
    with engine.stream(ask("hi"), LONG) as stream:
        next(stream)
        assert stream._submission is not None
        ticket = stream._submission.ticket
        engine._loop._sampler.remove(ticket.request_id)
        assert eventually(lambda: engine.stats().in_loop == 0)
        output = ticket.mailbox.wait(0, 0)
        assert output is not None
        assert not output.is_finished()
    assert_idle(engine)


def test_running_out_of_memory_is_one_line_and_not_the_end(engine: ChatEngine, model: VisionLanguageModel) -> None:
    logging.getLogger("ContinuousBatchingLogger").setLevel(logging.CRITICAL)

    def full() -> None:
        raise torch.OutOfMemoryError("tried to allocate 20 GiB")

    language_model(model).on_forward = full
    with pytest.raises(NotEnoughMemory, match="cpu ran out of memory"):
        next(engine.stream(ask("hi"), GREEDY))
    language_model(model).on_forward = None
    assert last(engine, ask("hi"), GREEDY).finish_reason == "stop"
    assert_idle(engine)


def test_closing_the_engine_ends_answers_and_threads(model: VisionLanguageModel) -> None:
    talk_forever(model, seconds_per_token=0.005)
    before = set(threading.enumerate())
    engine = ChatEngine(model, max_concurrent=1, update_interval=0).start()
    with ThreadPoolExecutor(2) as pool:
        results = [pool.submit(end_of, engine.stream(ask("hi"), LONG)) for _ in range(2)]
        assert eventually(lambda: engine.stats().waiting == 1)
        engine.close()
        assert all(isinstance(result.exception(timeout=30), LoopStopped) for result in results)
    assert set(threading.enumerate()) <= before
    with pytest.raises(LoopStopped, match="shut down"):
        next(engine.stream(ask("hi"), LONG))
    engine.close()


def test_many_chats_that_come_and_go_leave_nothing_behind(engine: ChatEngine, model: VisionLanguageModel) -> None:
    language_model(model).script = None

    def visit(number: int) -> None:
        try:
            stream = engine.stream(ask(f"question {number} " * (1 + number % 5), picture(number % 5)), LONG)
            for count, _ in enumerate(stream):
                if count == number % 7:
                    stream.close()
        except Busy:
            pass

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(visit, range(40)))
    assert_idle(engine)


def test_images_in_use_are_never_pushed_out(engine: ChatEngine, model: VisionLanguageModel) -> None:
    """Three places, two chats at once, six pictures: every answer still is that of its own picture."""
    language_model(model).script = None
    chats = [ask("What is it?", picture(i)) for i in range(6)]
    expected = [generate(model, [chat], GREEDY)[0].text for chat in chats]
    order = [0, 1, 2, 3, 4, 5, 0, 3, 1, 5, 2, 4] * 2
    with ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(lambda i: last(engine, chats[i], GREEDY).text, order))
    assert answers == [expected[i] for i in order]
    assert engine.stats().images_encoded > 6
    assert_idle(engine)


def test_when_ids_run_out_the_engine_starts_them_over(
    engine: ChatEngine, model: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    language_model(model).script = None
    expected = last(engine, ask("What is it?", picture(0)), GREEDY).text
    monkeypatch.setattr(engine._bank, "_max_id", engine._bank.embedding.vocab_size + 3 * 4)
    for seed in (1, 2):
        last(engine, ask("What is it?", picture(seed)), GREEDY)
    with pytest.raises(Busy, match="renews"):
        next(engine.stream(ask("What is it?", picture(3)), GREEDY))
    assert_idle(engine)
    with engine.stream(ask("What is it?", picture(0)), GREEDY) as stream:
        next(stream)
        assert last(engine, ask("What is it?", picture(0)), GREEDY).text == expected  # it was renewed once
    assert_idle(engine)


def test_pages_are_recycled_when_the_cache_is_small(model: VisionLanguageModel) -> None:
    language_model(model).script = None
    chats = [ask("word " * 20 + str(i)) for i in range(12)]
    expected = [generate(model, [chat], LONG)[0].text for chat in chats]
    kv_bytes = 240_000  # 78 pages: one context and a little, where four chats want 200
    with ChatEngine(model, max_concurrent=4, page_size=8, max_batch_tokens=32, kv_bytes=kv_bytes) as engine:
        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(lambda chat: last(engine, chat, LONG).text, chats))
        assert answers == expected
        assert engine.stats().pages_total < 110
        assert_idle(engine)


def test_chats_pushed_out_of_memory_go_on_when_the_others_leave(model: VisionLanguageModel) -> None:
    talk_forever(model, seconds_per_token=0.001)
    with ChatEngine(model, max_concurrent=4, page_size=8, max_batch_tokens=32, kv_bytes=240_000) as engine:
        streams = [engine.stream(ask("word " * 20 + str(i)), LONG) for i in range(4)]
        for stream in streams:
            next(stream)
        processor = manager_of(engine).batch_processor
        assert processor is not None
        scheduler = processor.scheduler
        assert eventually(lambda: scheduler.block_new_requests and bool(scheduler.waiting_requests))
        out = [s for s in streams if s._submission and s._submission.ticket.request_id in scheduler.waiting_requests]
        for stream in streams:
            if stream not in out:
                stream.close()
        assert out
        assert all(end_of(stream).num_new_tokens == 240 for stream in out)
        assert_idle(engine)


def test_too_little_memory_is_said_before_anything_starts(model: VisionLanguageModel) -> None:
    with pytest.raises(NotEnoughMemory, match="One conversation of 512 tokens"):
        ChatEngine(model, kv_bytes=10_000)
