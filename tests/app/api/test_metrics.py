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

from app.api.access import Access
from app.api.gate import add_api
from app.api.metrics import UsageLog, as_line, as_text
from app.api.openai.served import OneModel
from engine.chat_engine import ChatEngine
from engine.stats import EngineStats
from tests.paths import DATA
from tests.tiny_model import GREEDY, ask, picture, quick_process, tiny_model
from tests.waiting import eventually

pytestmark = pytest.mark.usefixtures("no_stray_event_loops")


@pytest.fixture(scope="module")
def engine() -> Iterator[ChatEngine]:
    with quick_process(), ChatEngine(tiny_model(), max_concurrent=2, page_size=8) as engine:
        list(engine.stream(ask("hi", picture(1)), GREEDY))
        yield engine


def values_in(text: str) -> dict[str, int]:
    return {name: int(value) for name, value in re.findall(r"^minivlm_(\w+) (\d+)$", text, re.MULTILINE)}


def test_the_text_is_what_dashboards_were_made_for() -> None:
    numbers = {counter.name: 1000 + place for place, counter in enumerate(dataclasses.fields(EngineStats))}
    assert as_text({"": EngineStats(**numbers)}) == (DATA / "metrics.txt").read_text(encoding="utf-8")


def test_the_numbers_are_the_engines(engine: ChatEngine) -> None:
    values = values_in(as_text({"": engine.stats()}))
    assert (values["images_encoded_total"], values["image_slots"]) == (1, engine.stats().image_slots)


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
    add_api(app, OneModel("tiny", engine), lambda: {"": engine.stats()}, Access())
    answer = TestClient(app).get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert values_in(answer.text)["pages_total"] == engine.stats().pages_total


def test_lines_are_written_only_when_something_happened(engine: ChatEngine, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="app.api.metrics")
    with UsageLog(lambda: {"": engine.stats()}, interval=0.01):
        assert eventually(lambda: len(caplog.messages) == 1)
        list(engine.stream(ask("and now?"), GREEDY))
        assert eventually(lambda: len(caplog.messages) > 1)
        assert eventually(lambda: caplog.messages[-1].startswith("0 answering"))
        written = len(caplog.messages)
    assert len(caplog.messages) == written
