"""What the tests of batching share: the parts of a running engine that are the library's."""

from __future__ import annotations

from engine.batching.manager import Manager
from engine.batching.steady_decoder import SteadyDecoder
from engine.chat_engine import ChatEngine
from tests.waiting import eventually


def manager_of(engine: ChatEngine) -> Manager:
    """The library's manager of a running engine."""
    manager = engine._loop._manager
    assert manager is not None
    return manager


def steady_of(engine: ChatEngine) -> SteadyDecoder:
    """What decodes over a contiguous cache in a running engine."""
    steady = manager_of(engine).steady
    assert steady is not None
    return steady


def goes_on(steady: SteadyDecoder) -> bool:
    """Whether it decodes more tokens."""
    before = steady.num_tokens
    return eventually(lambda: steady.num_tokens > before)
