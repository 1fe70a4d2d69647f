"""The page with a scripted model, served once for all tests that need it."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from models.vision_language_model import VisionLanguageModel
from tests.app.helpers import eventually, scene
from tests.app.tiny_model import quick_process, tiny_model
from tests.fakes import INFO, ScriptedModel

if TYPE_CHECKING:
    from playwright.sync_api import Page


def pytest_configure(config: pytest.Config) -> None:
    # gradio's queue statistics use what pandas 3 has deprecated; as an error that would end their task.
    config.addinivalue_line("filterwarnings", "ignore::pandas.errors.Pandas4Warning")
    # gradio and its client leave event loops and sockets of ended requests to the garbage collector.
    config.addinivalue_line("filterwarnings", "ignore:unclosed:ResourceWarning")


@pytest.fixture(scope="module")
def quick() -> Iterator[None]:
    """For whole modules of engine tests; see `quick_process`."""
    with quick_process():
        yield


@pytest.fixture
def model() -> VisionLanguageModel:
    """Fresh, with the same random weights for every test."""
    return tiny_model()


@dataclass
class Server:
    """The running page and the model behind it."""

    url: str
    model: ScriptedModel
    forget: Callable[[], None]  # every conversation, as a restart does


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def running_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    from app.ui import build_demo

    examples = tmp_path_factory.mktemp("examples")
    scene().save(examples / "scene.png")
    (examples / "examples.json").write_text('[{"image": "scene.png", "question": "[detection] red circle"}]')
    model = ScriptedModel()
    demo = build_demo(model, new_scene=scene, examples_dir=examples)
    _, url, _ = demo.launch(prevent_thread_lock=True, quiet=True, server_port=free_port())
    yield Server(url, model, demo.state_holder.session_data.clear)
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
    yield running_server
    model.open_gate()
    assert eventually(lambda: model.open_streams == 0), "an answer was left running"


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
    yield page
    assert errors == []
    assert hosts <= {server.url.split("/")[2], ""}
