"""On ZeroGPU: forked workers answer, are kept, stopped, fail and are refused; the visitor is known to the scheduler."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from gradio.context import LocalContext

from app.chat.exchange import Question
from app.chat.session import ChatSession
from app.extras.extended_model import with_extras
from app.library.engine_loader import engine_for
from app.spaces.zero_gpu import ZeroGpuEngine
from engine.generating_model import GeneratingModel
from models.conversation import Sampling, Turn
from models.errors import Busy, ConfigError, ContextOverflow
from models.vision_language_model import VisionLanguageModel
from tests.app.helpers import picture as page_picture
from tests.engine.helpers import language_model, talk_forever
from tests.tiny_model import GREEDY, ask, picture, tiny_model
from tests.waiting import eventually
from tests.zero_gpu import spaces
from tests.zero_gpu.spaces import WORKERS

pytestmark = [
    # The stand-in forks as the package does, beside threads of pytest's; what it warns of is what is tested.
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning"),
]


@pytest.fixture
def model() -> VisionLanguageModel:
    return tiny_model()


@pytest.fixture
def engine(model: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch) -> Iterator[ZeroGpuEngine]:
    monkeypatch.setenv("SPACES_ZERO_GPU", "true")
    monkeypatch.setitem(sys.modules, "spaces", spaces)
    with engine_for(model) as engine:
        assert isinstance(engine, ZeroGpuEngine)
        yield engine
    spaces.end_workers()


def test_twenty_questions_to_one_worker(engine: ZeroGpuEngine, model: VisionLanguageModel) -> None:
    """Of a chat that grows, with pictures and a stop now and then, each as it is answered without workers."""
    alone = GeneratingModel(model)
    chat: list[Turn] = []
    cached = []
    for number in range(20):
        images = (picture(number),) if number % 8 == 0 else ()
        chat = [] if images else chat
        chat.append(Question("user", f"question {number}?", images))
        if number % 6 == 5:  # one that is stopped at once
            stream = engine.stream(chat, GREEDY)
            next(stream)
            stream.close()
            assert next(stream, None) is None
        answers = list(engine.stream(chat, GREEDY))
        assert answers[-1].text == list(alone.stream(chat, GREEDY))[-1].text
        assert answers[-1].finish_reason is not None
        cached.append(answers[-1].num_cached_tokens)
        chat.append(Turn("assistant", answers[-1].text))
    assert WORKERS.forks == 1
    assert sum(map(bool, cached)) >= 15  # the worker keeps keys and values of earlier turns
    assert engine.stats().active == 0


def test_a_long_answer_comes_in_parts_and_stop_frees_the_worker(
    model: VisionLanguageModel, engine: ZeroGpuEngine
) -> None:
    talk_forever(model, seconds_per_token=0.01)
    session = ChatSession()
    session.begin(engine, "Go on", [page_picture()], Sampling(temperature=0, max_new_tokens=1000))
    assert eventually(lambda: len(session.exchanges[0].text) > 3)
    session.stop()
    assert eventually(lambda: engine.stats().active == 0)
    assert 3 < len(session.exchanges[0].text) < 500
    first = next(engine.stream(ask("and now?"), GREEDY))
    assert first.text
    assert WORKERS.forks == 1


def test_errors(engine: ZeroGpuEngine, model: VisionLanguageModel) -> None:
    """What the user can mend arrives whole; a bug or a killed worker costs one answer; a refusal is told."""
    with pytest.raises(ContextOverflow, match="tokens"):
        list(engine.stream(ask("x" * 5000), GREEDY))
    text = list(engine.stream(ask("hi"), GREEDY))[-1].text
    assert WORKERS.forks == 1

    def kill_worker() -> None:
        os.kill(os.getpid(), signal.SIGKILL) if os.getpid() != tests_pid else None

    tests_pid = os.getpid()
    spaces.end_workers()
    language_model(model).on_forward = kill_worker
    with pytest.raises(Busy, match="ZeroGPU worker error: GPU task aborted"):
        list(engine.stream(ask("hi"), GREEDY))

    def fail() -> None:
        raise ValueError("broken")

    language_model(model).on_forward = fail
    with pytest.raises(Busy, match="ZeroGPU worker error: LoopStopped"):
        list(engine.stream(ask("hi"), GREEDY))
    language_model(model).on_forward = None
    assert list(engine.stream(ask("hi"), GREEDY))[-1].text == text  # by a new worker
    assert WORKERS.forks == 3

    WORKERS.refusal = "You have exceeded your quota."
    with pytest.raises(Busy, match="ZeroGPU quota exceeded: You have exceeded your quota"):
        next(engine.stream(ask("hi"), GREEDY))
    assert engine.stats().active == 0


def test_a_worker_need_not_be_kept(engine: ZeroGpuEngine) -> None:
    WORKERS.may_reuse = False
    texts = {list(engine.stream(ask("hi"), GREEDY))[-1].text for _ in range(2)}
    assert (len(texts), WORKERS.forks) == (1, 2)


def test_the_scheduler_is_told_whose_question_it_is_and_how_long_it_may_take(engine: ZeroGpuEngine) -> None:
    visitor: Any = object()
    token = LocalContext.request.set(visitor)
    try:
        session = ChatSession()
        session.begin(with_extras(engine), "hi", [], replace(GREEDY, max_new_tokens=200))
        assert eventually(lambda: not session.is_answering)
    finally:
        LocalContext.request.reset(token)
    assert WORKERS.visitors == [visitor]
    assert WORKERS.seconds == [30]


def test_the_package_must_have_been_imported(model: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPACES_ZERO_GPU", "true")
    monkeypatch.delitem(sys.modules, "spaces", raising=False)
    with pytest.raises(ConfigError, match="import spaces first"):
        engine_for(model)
