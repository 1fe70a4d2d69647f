"""What the sheet of code shows, without a browser."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest

from app.page.choosing.page_models import PageModels
from app.page.code_sheet import add_code_sheet, code_of
from app.page.long_work import LONG_WORK
from app.page.page_state import PageState
from models.errors import RequestError
from tests.app.helpers import picture
from tests.fakes import INFO, ScriptedModel
from tests.waiting import eventually

MODELS = [{"id": "first", "name": "Another"}, {"id": "scripted", "name": INFO.name}, {"id": 5}, "x"]
ALL = ["curl", "Python, openai", "Python, gradio_client"]


def shown(
    models: Any = MODELS, index: int = 0, url: Any = "http://here:7860", *, key: bool = False, default: str = INFO.name
) -> list[dict[str, str]]:
    page, model = PageState(), ScriptedModel()
    list(page.session.ask(model, "what is it?", [picture()]))
    page_models = PageModels(ScriptedModel(info=replace(INFO, name=default)))
    return code_of(page, page_models, index=index, url=url, listed=models, key=key)


def test_the_endpoint_of_gradio_asks_the_default_model_alone() -> None:
    assert [one["title"] for one in shown(default="Another")] == ALL[:2]


def test_each_client_asks_the_model_that_answered_at_the_address_of_the_page() -> None:
    code = shown()
    assert [one["title"] for one in code] == ALL
    assert '"model": "scripted"' in code[0]["text"]
    assert "base_url='http://here:7860/v1'" in code[1]["text"]
    assert "handle_file('red.png')" in code[2]["text"]
    assert not any("API_KEY" in one["text"] for one in code)


def test_a_page_with_a_key_says_where_it_goes() -> None:
    assert all("MINIVLM_API_KEY" in one["text"] for one in shown(key=True))


@pytest.mark.parametrize("models", [[], None, "x", [{}]])
def test_a_page_without_api_shows_what_there_is(models: Any) -> None:
    assert [one["title"] for one in shown(models)] == ALL[2:]


@pytest.mark.parametrize("url", ["http://h/$(rm)", "javascript:x", "http://h/a b", "http://h'", None, 5, "http://h\n"])
def test_what_is_no_address_is_not_written_into_a_command(url: Any) -> None:
    with pytest.raises(RequestError, match="can't be written"):
        shown(url=url)


def test_the_long_name_of_a_strangers_model_is_cut_in_what_is_said() -> None:
    page = PageState()
    list(page.session.ask(ScriptedModel(info=replace(INFO, name="long " * 400)), "what is it?", [picture()]))
    with pytest.raises(RequestError, match="No program can ask long long") as refused:
        code_of(page, PageModels(ScriptedModel()), index=0, url="http://here:7860", listed=[], key=False)
    assert len(str(refused.value)) < 200


def test_an_answer_that_is_not_there() -> None:
    with pytest.raises(RequestError, match="no longer there"):
        shown(index=3)


@pytest.mark.usefixtures("no_stray_event_loops")
def test_code_of_a_long_chat_waits_for_its_turn() -> None:
    """Of four megabytes it took half a second, in as many threads as were asked for."""
    listeners: list[Callable[..., Any]] = []

    def connect(listener: Callable[..., Any], *_: Any, **__: Any) -> SimpleNamespace:
        listeners.append(listener)
        return SimpleNamespace(then=lambda *_, **__: None)

    bridge: Any = SimpleNamespace(code=connect)
    with gr.Blocks():
        add_code_sheet(PageModels(ScriptedModel()), bridge, gr.State(), {}, gr.HTML())
    pressed = gr.EventData(None, {"index": 0, "side": "", "url": "http://h", "models": [], "key": False})
    with ThreadPoolExecutor(1) as threads:
        with LONG_WORK.turn():
            shown = threads.submit(listeners[-1], PageState(), pressed)
            assert eventually(lambda: len(LONG_WORK.turns._waiting) == 1)
            assert not shown.done()
        assert "no longer there" in shown.result()[1]
