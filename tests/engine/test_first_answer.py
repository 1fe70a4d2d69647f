"""The log says once how fast the first answer was."""

from __future__ import annotations

import logging
import re
from dataclasses import replace
from types import SimpleNamespace

import pytest

from engine import first_answer
from engine.first_answer import Stopwatch
from models.vision_language_model import VisionLanguageModel
from tests.engine.helpers import last, start, talk_forever
from tests.tiny_model import GREEDY, ask, picture, say

LONG = replace(GREEDY, max_new_tokens=400)  # twenty seconds: it has not ended when it is closed

pytestmark = pytest.mark.usefixtures("quick")


@pytest.mark.parametrize("in_caller", [False, True])
def test_one_line_after_the_first_complete_answer(
    model: VisionLanguageModel, caplog: pytest.LogCaptureFixture, in_caller: bool
) -> None:
    talk_forever(model, seconds_per_token=0.05)
    caplog.set_level(logging.INFO, logger=first_answer.logger.name)
    with start(model, in_caller=in_caller) as engine:
        stream = engine.stream(ask("?", picture(1)), LONG)
        next(stream)
        stream.close()  # not complete
        assert caplog.messages == []
        say(model, 0, "a cat on a mat")
        answer = last(engine, ask("What is it?", picture(2)))
        last(engine, ask("And now?", picture(3)))
    (line,) = caplog.messages
    assert re.match(r"First answer: the picture took \d+\.\d\d s, the first token came \d+\.\d\d s later \(", line)
    assert f"({answer.num_prompt_tokens} prompt tokens)" in line


def test_the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Speed is that of the tokens after the first update, which came all at once."""
    now = iter([10.0, 12.5, 13.0, 18.0, 18.0])
    monkeypatch.setattr(first_answer, "time", SimpleNamespace(monotonic=lambda: next(now)))
    watch = Stopwatch(begun=first_answer.time.monotonic())
    watch.is_prepared()
    watch.has_tokens(3)
    watch.has_tokens(9)
    line = watch.line(num_prompt_tokens=50, num_image_tokens=36, num_new_tokens=13)
    assert line == (
        "First answer: the picture took 2.50 s, the first token came 0.50 s later (50 prompt tokens), "
        "then 2.0 tokens per second."
    )
    watch.num_first = 13
    assert watch.line(num_prompt_tokens=5, num_image_tokens=0, num_new_tokens=13).endswith("(5 prompt tokens).")
