"""Which counters say that something is in use."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest

from engine.stats import IN_USE, EngineStats
from models.vision_language_model import VisionLanguageModel
from tests.engine.helpers import assert_idle, start, talk_forever
from tests.tiny_model import GREEDY, ask, picture
from tests.waiting import eventually

pytestmark = pytest.mark.usefixtures("quick")


def test_those_in_use_go_back_to_zero_and_no_others(model: VisionLanguageModel) -> None:
    talk_forever(model, seconds_per_token=0.005)
    long = replace(GREEDY, max_new_tokens=400)
    with start(model, max_concurrent=1) as engine:
        running, waiting = (engine.stream(ask("hi", picture(1)), long) for _ in range(2))
        next(running)
        next(waiting)
        before = engine.stats()
        waiting.close()
        running.close()
        assert_idle(engine)
        assert eventually(lambda: engine.stats().in_loop == 0)
        after = engine.stats()
    names = [counter.name for counter in fields(EngineStats)]
    assert {name for name in names if getattr(before, name) and not getattr(after, name)} == set(IN_USE)
