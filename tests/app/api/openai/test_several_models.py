"""A library behind `/v1`: which models are listed, and what naming one that is not loaded does."""

from __future__ import annotations

import re
import threading
from typing import Any

from fastapi.testclient import TestClient

from app.api.api_application import make_api
from app.api.library_models import LibraryModels
from app.api.metrics import as_text
from app.api.openai.routes import Service
from app.library.library import ModelLibrary
from tests.app.library.fake_loader import FakeLoader, offer, settle, state
from tests.waiting import eventually

OFFERS = [offer("one"), offer("two"), offer("huge", 900), offer("away", problem="Not here: x. Fetch: y")]


def ask(client: TestClient, model: str | None) -> Any:
    message = {"role": "user", "content": "hi"}
    return client.post("/v1/chat/completions", json={"model": model, "messages": [message]})


def test_a_model_that_is_named_is_loaded_meanwhile_it_is_503() -> None:
    loader = FakeLoader(gate=threading.Semaphore(4))
    with ModelLibrary(OFFERS, loader) as library:
        library.load("one")
        assert loader.gate is not None
        models = LibraryModels(library)
        with TestClient(make_api(Service(models))) as client:
            listed = client.get("/v1/models").json()["data"]
            assert [(one["id"], one.get("state", "loaded")) for one in listed] == [
                ("one", "loaded"),
                ("two", "here"),
                ("huge", "here"),
            ]
            assert ask(client, None).json()["model"] == ask(client, "one").json()["model"] == "one"
            refused = ask(client, "two")
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
            assert refused.json()["error"]["code"] == "model_loading"
            assert ask(client, "one").status_code == 200  # as before, meanwhile
            loader.gate.release(8)
            settle(library)
            assert ask(client, "two").json()["model"] == "two"
            unknown, away = ask(client, "three"), ask(client, "away")
            assert (unknown.status_code, away.status_code) == (404, 404)
            assert "there is one, two, huge." in unknown.json()["error"]["message"]
            assert away.json()["error"]["message"] == "Away can't be loaded. Not here: x. Fetch: y"
            ask(client, "huge")
            assert eventually(lambda: state(library, "huge") == "here")
            huge = ask(client, "huge")
            assert (huge.status_code, huge.headers["x-should-retry"]) == (503, "false")
            assert "Huge does not fit" in huge.json()["error"]["message"]
        lines = [line for line in as_text(models.stats()).splitlines() if line.startswith("minivlm_active")]
        assert lines == ['minivlm_active{model="one"} 0', 'minivlm_active{model="two"} 0']


def test_without_a_model_in_memory_the_default_is_loaded() -> None:
    with ModelLibrary(OFFERS, FakeLoader()) as library, TestClient(make_api(Service(LibraryModels(library)))) as client:
        assert ask(client, None).status_code == 503
        settle(library)
        assert ask(client, None).json()["model"] == "one"


def test_one_model_alone_has_no_label_and_quotes_in_names_are_escaped() -> None:
    with ModelLibrary([offer("one")], FakeLoader()) as library:
        library.load("one")
        stats = LibraryModels(library).stats()
        assert list(stats) == [""]
        assert re.search(r'^minivlm_active\{model="a\\"b\\\\"\} 0$', as_text({'a"b\\': stats[""]}), re.MULTILINE)
