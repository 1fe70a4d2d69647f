"""The page with a scripted model, served once for all tests that need it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from engine.chat_model import ChatModel
from tests.app.helpers import Serve, Server, scene
from tests.fakes import INFO, ScriptedModel
from tests.waiting import eventually, free_port

if TYPE_CHECKING:
    from playwright.sync_api import Page


def pytest_configure(config: pytest.Config) -> None:
    # gradio's queue statistics use what pandas 3 has deprecated; as an error that would end their task.
    config.addinivalue_line("filterwarnings", "ignore::pandas.errors.Pandas4Warning")


@pytest.fixture(scope="session")
def no_stray_event_loops() -> Iterator[None]:
    """gradio makes an event loop, with two sockets that nobody closes, for every lock of its own.

    It did so for Pythons whose locks belonged to a loop from the start; since 3.10 they need none.
    """
    import gradio.queueing
    import gradio.utils

    with pytest.MonkeyPatch.context() as patch:
        for module in (gradio.utils, gradio.queueing):
            patch.setattr(module, "safe_get_lock", asyncio.Lock)
        patch.setattr(gradio.utils, "safe_get_stop_event", asyncio.Event)
        yield


@pytest.fixture(scope="session")
def running_server(tmp_path_factory: pytest.TempPathFactory, no_stray_event_loops: None) -> Iterator[Server]:
    from app.chat.conversation_store import ConversationStore
    from app.page.components import build_demo
    from app.page.page_state import PageState

    examples = tmp_path_factory.mktemp("examples")
    scene().save(examples / "scene.png")
    (examples / "examples.json").write_text('[{"image": "scene.png", "question": "[detection] red circle"}]')
    model = ScriptedModel()
    store = ConversationStore[PageState]()
    demo = build_demo(model, new_scene=scene, examples_dir=examples, store=store)
    _, url, _ = demo.launch(prevent_thread_lock=True, quiet=True, server_port=free_port())

    def forget() -> None:
        demo.state_holder.session_data.clear()
        for key in list(store._entries):
            store.drop(key)

    yield Server(url, model, store, forget)
    demo.close(verbose=False)


@pytest.fixture
def server(running_server: Server) -> Iterator[Server]:
    """The server with a model that has no script, no gate and no memory; every answer must have ended afterwards."""
    model = running_server.model
    model.script, model.default, model.delay, model.gate = [], "A red circle and a blue square.", 0.0, None
    model.info = replace(INFO)
    model.seen.clear()
    model.samplings.clear()
    model.closed_early = 0
    running_server.store.grace = 0.5
    yield running_server
    model.open_gate()
    assert eventually(lambda: model.open_streams == 0), "an answer was left running"


@pytest.fixture
def serve(no_stray_event_loops: None) -> Iterator[Serve]:
    """Pages for models of a test's own, closed at its end."""
    from app.page.components import build_demo
    from tests.tiny_model import quick_process

    with ExitStack() as stack, quick_process():

        def start(model: ChatModel) -> str:
            demo = build_demo(model)
            _, url, _ = demo.launch(prevent_thread_lock=True, quiet=True, server_port=free_port())
            stack.callback(demo.close, verbose=False)
            return str(url)

        yield start


@pytest.fixture
def scene_file(tmp_path: Path) -> Path:
    path = tmp_path / "scene.png"
    scene().save(path)
    return path


@pytest.fixture
def quiet_page(page: Page, server: Server) -> Iterator[Page]:
    """A page that must not raise errors in its scripts nor ask any other host for anything."""
    errors: list[str] = []
    hosts: set[str] = set()
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: hosts.add(request.url.split("/")[2] if "//" in request.url else ""))
    page.set_default_timeout(30_000)
    page.goto(server.url)
    page.wait_for_selector("#mv-question textarea")  # the page is built by a script
    yield page
    assert errors == []
    assert hosts <= {server.url.split("/")[2], ""}
