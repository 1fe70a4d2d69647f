"""The API with a scripted model, served once for all tests that need it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import openai
import pytest

from engine.chat_engine import ChatEngine
from models.loader import load_model
from tests.app.api.serving import Api, serve_api
from tests.fakes import INFO, ScriptedModel
from tests.paths import ROOT
from tests.tiny_model import quick_process
from tests.waiting import eventually

BUNDLED = "tiny_minigpt_v2"
ANSWER = "A red circle and a blue square."


@pytest.fixture(scope="session")
def running_api(no_stray_event_loops: None) -> Iterator[tuple[Api, ScriptedModel]]:
    model = ScriptedModel()
    with serve_api(model) as api:
        yield api, model


@pytest.fixture
def scripted(running_api: tuple[Api, ScriptedModel]) -> Iterator[ScriptedModel]:
    """The model behind `api`, without a script; every answer must have ended afterwards and all memory be free."""
    api, model = running_api
    model.script, model.default, model.delay, model.gate = [], ANSWER, 0.0, None
    model.info = replace(INFO)
    model.seen.clear()
    model.samplings.clear()
    model.closed_early = 0
    yield model
    model.open_gate()
    assert eventually(lambda: model.open_streams == 0), "an answer was left running"
    assert eventually(lambda: api.service.budget.held == 0), "memory was not given back"


@pytest.fixture
def api(running_api: tuple[Api, ScriptedModel], scripted: ScriptedModel) -> Api:
    return running_api[0]


@pytest.fixture
def client(api: Api) -> Iterator[openai.OpenAI]:
    with api.client() as client:
        yield client


@pytest.fixture(scope="session")
def bundled(no_stray_event_loops: None) -> Iterator[Api]:
    """The bundled model, by the engine: four answers at once, eight more in the queue."""
    model = load_model(ROOT / "eval_configs" / f"{BUNDLED}.yaml", device="cpu", report=None)
    with (
        quick_process(),
        ChatEngine(model, max_concurrent=4, max_queue=8) as engine,
        serve_api(engine, name=BUNDLED, stats=engine.stats) as api,
    ):
        yield api
