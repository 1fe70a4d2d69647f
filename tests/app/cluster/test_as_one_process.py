"""Clients can't tell a cluster from one process: the same answers, the same errors, OpenAI's client as it is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from starlette.testclient import TestClient

from app.api.api_application import make_api
from app.api.openai.routes import Service
from app.api.openai.served import OneModel
from engine.chat_engine import ChatEngine
from models.loader import load_model
from tests.app.cluster.asking import CONFIG, CONFIGS, MODEL, OTHER_MODEL, QUESTIONS, first_message

pytestmark = pytest.mark.usefixtures("with_ray")
CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def alone() -> Iterator[TestClient]:
    """One process with MODEL."""
    with ChatEngine(load_model(CONFIG, device="cpu", report=None)) as engine:
        yield TestClient(make_api(Service(OneModel(MODEL, engine))), raise_server_exceptions=False)


def test_errors_are_the_same(url: str, alone: TestClient) -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,bm90aGluZw=="}}
    wrong: dict[str, dict[str, Any]] = {
        "several answers": {"n": 3},
        "too cold": {"temperature": -1},
        "no messages": {"messages": []},
        "a role that is none": {"messages": [{"role": "narrator", "content": "hi"}]},
        "no picture": {"messages": [{"role": "user", "content": [picture]}]},
        "a picture elsewhere": {
            "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:///a.png"}}]}]
        },
        "too long": {"messages": [first_message(2, "what is it " * 5000)]},
        "no answer": {"max_tokens": 0},
    }
    for name, changed in wrong.items():
        for is_streamed in (False, True):
            body = {"model": MODEL, "messages": [first_message(2)], "max_tokens": 5, "stream": is_streamed} | changed
            here, there = alone.post(CHAT, json=body), httpx.post(f"{url}{CHAT}", json=body, timeout=60)
            assert here.status_code >= 400, name
            assert (there.status_code, there.text) == (here.status_code, here.text), name
    assert httpx.post(f"{url}{CHAT}", content=b"{", timeout=60).json() == alone.post(CHAT, content=b"{").json()
    assert httpx.get(f"{url}/v1/nowhere", timeout=60).json() == alone.get("/v1/nowhere").json()
    assert httpx.get(url, timeout=60).status_code == 404  # there is no page


def test_openais_client_asks_both_models(url: str, alone: TestClient) -> None:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        assert [one.id for one in client.models.list()] == [config.stem for config in CONFIGS]
        said: dict[str, str] = {}
        for model in (MODEL, OTHER_MODEL):
            message: Any = first_message(5, "What is in the picture?" if model == OTHER_MODEL else QUESTIONS[0])
            whole = client.chat.completions.create(model=model, messages=[message], temperature=0, max_tokens=30)
            stream = client.chat.completions.create(
                model=model, messages=[message], temperature=0, max_tokens=30, stream=True
            )
            pieces = [chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices]
            said[model] = whole.choices[0].message.content or ""
            assert "".join(pieces) == said[model] != ""
        with pytest.raises(openai.NotFoundError, match="other"):
            client.chat.completions.create(model="other", messages=[{"role": "user", "content": "hi"}])
    body = {"model": MODEL, "messages": [first_message(5)], "temperature": 0, "max_tokens": 30}
    assert said[MODEL] == alone.post(CHAT, json=body).json()["choices"][0]["message"]["content"]
