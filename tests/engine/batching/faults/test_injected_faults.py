"""Whatever a step of the model raises: its answer ends with an error, nothing is left, and the next one is right."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import pytest
import torch

from engine.batching.generation_loop import LoopStopped
from engine.chat_engine import ChatEngine
from models.errors import NotEnoughMemory
from tests.engine.helpers import assert_idle, language_model, last
from tests.tiny_model import GREEDY, ask, picture, say, tiny_model

pytestmark = pytest.mark.usefixtures("quick")


class Odd(BaseException):
    """An error that no `except Exception` sees."""


FAULTS: list[tuple[BaseException, type[Exception]]] = [
    (RuntimeError("boom"), LoopStopped),
    (StopIteration(), LoopStopped),
    (SystemExit(1), LoopStopped),
    (KeyboardInterrupt(), LoopStopped),
    (Odd("x"), LoopStopped),
    (OSError(28, "No space left on device"), LoopStopped),
    (MemoryError(), NotEnoughMemory),
    (torch.OutOfMemoryError("tried to allocate 20 GiB"), NotEnoughMemory),
    (RuntimeError("CUDA error: out of memory"), NotEnoughMemory),
    (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), NotEnoughMemory),
]


@pytest.fixture(scope="module")
def engine() -> Iterator[ChatEngine]:
    logging.getLogger("ContinuousBatchingLogger").setLevel(logging.CRITICAL)
    model = tiny_model()
    say(model, 0, "")
    with ChatEngine(model, max_concurrent=2, page_size=8, max_batch_tokens=64, update_interval=0) as engine:
        yield engine


def raising(fault: BaseException, step: int) -> Callable[[], None]:
    """Raises it at that step of the model, and from then on."""
    steps = 0

    def on_forward() -> None:
        nonlocal steps
        steps += 1
        if steps >= step:
            raise fault

    return on_forward


@pytest.mark.parametrize(("fault", "seen"), FAULTS, ids=lambda value: f"{value!r:.40}")
def test_an_answer_ends_and_the_next_one_is_right(
    engine: ChatEngine, fault: BaseException, seen: type[Exception]
) -> None:
    model = language_model(engine._model)
    right = last(engine, ask("hi", picture(1)), GREEDY)
    model.on_forward = raising(fault, 1)
    try:
        with pytest.raises(seen) as caught:
            last(engine, ask("hi", picture(1)), GREEDY)
    finally:
        model.on_forward = None
    assert "\n" not in str(caught.value)
    assert_idle(engine)
    again = last(engine, ask("hi", picture(1)), GREEDY)
    assert (again.text, again.finish_reason) == (right.text, right.finish_reason)
    assert_idle(engine)
