"""What the engine tells about itself: /metrics beside the page, and lines in the log."""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Iterator

import gradio as gr
import pytest
from gradio.routes import App
from starlette.testclient import TestClient

from app.engine import ChatEngine, EngineStats
from app.metrics import UsageLog, add_metrics, as_line, as_text
from tests.app.helpers import eventually
from tests.app.tiny_model import GREEDY, ask, picture, quick_process, tiny_model


@pytest.fixture(scope="module")
def engine() -> Iterator[ChatEngine]:
    with quick_process(), ChatEngine(tiny_model(), max_concurrent=2, page_size=8) as engine:
        list(engine.stream(ask("hi", picture(1)), GREEDY))
        yield engine


def values_in(text: str) -> dict[str, int]:
    return {name: int(value) for name, value in re.findall(r"^minivlm_(\w+) (\d+)$", text, re.MULTILINE)}


def test_every_counter_has_a_line_with_its_type(engine: ChatEngine) -> None:
    text = as_text(engine.stats())
    assert len(values_in(text)) == len(dataclasses.fields(EngineStats))
    assert values_in(text)["images_encoded_total"] == 1
    assert "# TYPE minivlm_images_encoded_total counter" in text
    assert "# TYPE minivlm_pages_total gauge" in text


def test_the_log_says_how_much_of_the_memory_is_in_use(engine: ChatEngine) -> None:
    stats = dataclasses.replace(
        engine.stats(),
        pages_in_use=3,
        pages_kept=1,
        pages_total=8,
        page_bytes=2**20,
        copy_bytes=5 * 2**20,
        images_held=2,
        image_slots=4,
    )
    assert "keys and values 4 of 8 MiB (3 pages in use, 1 kept), 5 MiB more to decode in" in as_line(stats)


def test_the_page_serves_them(engine: ChatEngine) -> None:
    with gr.Blocks() as page:
        gr.Markdown("page")
    app = App.create_app(page)
    add_metrics(app, engine)
    answer = TestClient(app).get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert values_in(answer.text)["pages_total"] == engine.stats().pages_total


def test_lines_are_written_only_when_something_happened(engine: ChatEngine, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="app.metrics")
    with UsageLog(engine, interval=0.01):
        assert eventually(lambda: len(caplog.messages) == 1)
        list(engine.stream(ask("and now?"), GREEDY))
        assert eventually(lambda: len(caplog.messages) > 1)
        assert eventually(lambda: caplog.messages[-1].startswith("0 answering"))
        written = len(caplog.messages)
    assert len(caplog.messages) == written
