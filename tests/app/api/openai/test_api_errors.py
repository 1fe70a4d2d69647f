"""Every error that a client can meet, as OpenAI's own client names it."""

from __future__ import annotations

import json
import socket
from typing import Any

import httpx
import openai
import pytest

from app.api.openai.api_errors import ApiError
from app.api.openai.body import MAX_BYTES, MAX_VALUES, parse_object
from app.api.openai.data_uris import MAX_PICTURES
from app.api.openai.served import OneModel
from models.errors import Busy, ContextOverflow, NotEnoughMemory, NotFinite, ShutDown
from tests.app.api.serving import Api, data_uri, request, said
from tests.app.helpers import scene
from tests.fakes import INFO, ScriptedModel
from tests.waiting import eventually

URI = data_uri(scene())


def picture_message(url: Any) -> dict[str, Any]:
    return {"role": "user", "content": [{"type": "image_url", "image_url": url}, {"type": "text", "text": "hi"}]}


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"n": 2}, "n", "not supported"),
        ({"logprobs": True}, "logprobs", "not supported"),
        ({"frequency_penalty": 0.5}, "frequency_penalty", "not supported"),
        ({"tools": [{"type": "function"}]}, "tools", "not supported"),
        ({"response_format": {"type": "json_object"}}, "response_format", "not supported"),
        ({"top_k": 5}, "top_k", "not supported"),
        ({"temperature": -1}, "temperature", "at least 0"),
        ({"temperature": "hot"}, "temperature", "valid number"),
        ({"top_p": 1.5}, "top_p", "at most 1"),
        ({"max_tokens": 0}, "max_tokens", "max_tokens is 0; it must be"),
        ({"max_completion_tokens": 0}, "max_completion_tokens", "max_completion_tokens is 0; it must be"),
        ({"max_tokens": 1.5}, "max_tokens", "integer"),
        ({"seed": 2**63}, "seed", "seed is"),
        ({"seed": 10**400}, "seed", "seed"),
        ({"stop": list("abcde")}, "stop", "at most 4"),
        ({"stop": ""}, "stop", "1 to 500"),
        ({"stop": [1]}, "stop", "string"),
        ({"stream": "yes"}, "stream", "boolean"),
        ({"task": "dance"}, "task", "has no task 'dance'; it has chat, caption"),
        ({"messages": []}, "messages", "at least 1"),
        ({"messages": "hi"}, "messages", "list"),
        ({"messages": [1]}, "messages[0]", "dictionary"),
        ({"messages": [{"content": "x"}]}, "messages[0]", "role is None"),
        ({"messages": [{"role": "user", "content": 1}]}, "messages[0].content", "text or a list"),
        ({"messages": [{"role": "user", "content": [1]}]}, "messages[0].content[0]", "text or an image_url"),
        ({"messages": [{"role": "user", "content": None}]}, "messages", "Type a question"),
        ({"messages": [said("a", role="assistant"), said("b")]}, "messages[0]", "without a question"),
        ({"messages": [said("a"), said("b", role="assistant")]}, "messages[1].role", "must be the user's"),
        ({"messages": [said("[refer] dog")]}, "messages", "add one first"),
        ({"messages": [said("a", scene(), scene())]}, "messages", "one image per question"),
        (
            {"messages": [picture_message("https://a.b/c.png")]},
            "messages[0].content[0].image_url",
            "fetches no address",
        ),
        ({"messages": [picture_message("/etc/passwd")]}, "messages[0].content[0].image_url", "opens no file"),
        ({"messages": [picture_message({"url": "file:///x"})]}, "messages[0].content[0].image_url", "data URIs"),
        (
            {"messages": [picture_message("data:image/svg+xml;base64,AA")]},
            "messages[0].content[0].image_url",
            "another kind that the page takes",
        ),
        ({"messages": [picture_message({})]}, "messages[0].content[0].image_url", "must be"),
        ({"messages": [picture_message(URI[:-60])]}, "messages[0].content[0].image_url", "damaged|not base64"),
        (
            {"messages": [picture_message("data:image/png;base64,!")]},
            "messages[0].content[0].image_url",
            "not an image",
        ),
    ],
    ids=lambda value: json.dumps(value)[:40] if isinstance(value, dict) else None,
)
def test_what_is_wrong_is_named(client: openai.OpenAI, fields: dict[str, Any], param: str, message: str) -> None:
    with pytest.raises(openai.BadRequestError, match=message) as caught:
        client.post("/chat/completions", body=request(said("hi")) | fields, cast_to=httpx.Response)
    assert caught.value.param == param
    assert caught.value.type == "invalid_request_error"
    assert caught.value.code
    assert caught.value.request_id


@pytest.mark.parametrize(
    "fields",
    [
        {"n": 1, "logprobs": False, "frequency_penalty": 0, "presence_penalty": 0.0, "tools": [], "logit_bias": {}},
        {"n": None, "tools": None, "stop": None, "seed": None, "stream": None, "stream_options": None, "top_p": None},
        {"response_format": {"type": "text"}, "tool_choice": "auto", "user": "me", "metadata": {"a": "b"}},
        {
            "reasoning_effort": "low",
            "verbosity": "low",
            "safety_identifier": "x",
            "prompt_cache_key": "y",
            "store": False,
        },
        {"service_tier": "auto", "parallel_tool_calls": True, "stop": [], "unheard_of": {"deep": [1]}},
    ],
)
def test_what_asks_for_nothing_is_let_through(api: Api, fields: dict[str, Any]) -> None:
    assert api.post("/v1/chat/completions", request(said("hi")) | fields).status_code == 200


@pytest.mark.parametrize(
    ("messages", "code"),
    [
        ([said("word " * 1_000_000)], "context_length_exceeded"),
        ([said("a" * 20_001)], "context_length_exceeded"),
        ([said("a"), said("b", role="assistant")] * INFO.context_tokens + [said("c")], "context_length_exceeded"),
        ([picture_message(URI)] * 1000, "too_many_images"),
        ([picture_message(URI)] * (MAX_PICTURES + 1), "too_many_images"),
    ],
    ids=["a million tokens", "characters", "messages", "a thousand pictures", "one picture more"],
)
def test_too_much(api: Api, scripted: ScriptedModel, messages: list[Any], code: str) -> None:
    answer = api.post("/v1/chat/completions", request(*messages))
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, code)
    assert answer.json()["error"]["param"] == "messages"
    assert scripted.seen == []


@pytest.mark.parametrize(
    ("error", "kind", "code"),
    [
        (ContextOverflow("The question takes 900 tokens."), openai.BadRequestError, "context_length_exceeded"),
        (Busy("32 questions are waiting already."), openai.RateLimitError, "queue_full"),
        (ShutDown("The server was stopped."), openai.InternalServerError, "server_stopping"),
        (NotEnoughMemory("No memory for this question."), openai.InternalServerError, "out_of_memory"),
        (NotFinite("The model computed NaN."), openai.InternalServerError, "not_finite"),
        (ZeroDivisionError("a bug"), openai.InternalServerError, "internal_error"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_the_model_raises(
    client: openai.OpenAI,
    scripted: ScriptedModel,
    error: Exception,
    kind: type[openai.APIStatusError],
    code: str,
    stream: bool,
) -> None:
    scripted.script = [error]
    with pytest.raises(kind) as caught:
        client.chat.completions.create(**request(said("hi"), stream=stream))
    assert caught.value.code == code
    assert ("a bug" not in str(caught.value)) == isinstance(error, ZeroDivisionError) or str(error) in str(caught.value)
    assert caught.value.response.headers.get("retry-after") == ("5" if isinstance(error, Busy | ShutDown) else None)


@pytest.mark.parametrize(("error", "calls"), [(NotEnoughMemory("none"), 1), (ZeroDivisionError(), 3)])
def test_what_would_fail_again_is_not_repeated(api: Api, scripted: ScriptedModel, error: Exception, calls: int) -> None:
    scripted.default = error
    with api.client(max_retries=2) as client, pytest.raises(openai.InternalServerError):
        client.chat.completions.create(**request(said("hi")))
    assert len(scripted.seen) == calls


def test_an_error_in_a_stream_is_an_event(client: openai.OpenAI, scripted: ScriptedModel) -> None:
    def fails(_: object) -> str:
        raise NotEnoughMemory("No memory for the rest.")

    scripted.script = [fails]
    with pytest.raises(openai.APIError, match="No memory for the rest"):
        list(client.chat.completions.create(**request(said("hi"), stream=True)))


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/chat/completions", 405, "method_not_allowed"),
        ("POST", "/v1/models", 405, "method_not_allowed"),
        ("POST", "/v1/responses", 404, "unknown_url"),
        ("POST", "/v1/chat/completions/", 404, "unknown_url"),
        ("GET", "/v1", 404, "unknown_url"),
        ("GET", "/v1/models/a%2Fb", 404, "model_not_found"),
        ("GET", "/health/x", 404, "unknown_url"),
    ],
)
def test_routes_that_are_not_there(api: Api, method: str, path: str, status: int, code: str) -> None:
    answer = httpx.request(method, api.url.rstrip("/") + path)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "invalid_json"),
        (b"{", "invalid_json"),
        (b"[]", "invalid_json"),
        (b'"\xff"', "invalid_json"),
        (b'{"a": "\\ud800"}', "invalid_json"),
        (b'{"a":' + b"[" * 100 + b"{" * 50_000, "invalid_json"),
        (b"[" * MAX_VALUES + b"]" * MAX_VALUES, "invalid_json"),
        (b'{"a": [' + b"1," * MAX_VALUES + b"1]}", "too_many_values"),
    ],
)
def test_bodies_that_are_no_object(body: bytes, code: str) -> None:
    with pytest.raises(ApiError) as caught:
        parse_object(body)
    assert (caught.value.status, caught.value.code) == (400, code)
    assert len(caught.value.message) < 200


def pieces_of(size: int) -> Any:
    """A body that doesn't say how long it is."""
    for _ in range(size // 2**20):
        yield b" " * 2**20


@pytest.mark.parametrize("announced", [True, False])
def test_a_body_that_is_too_large(api: Api, announced: bool) -> None:
    body = b" " * (MAX_BYTES + 1) if announced else pieces_of(MAX_BYTES + 2**21)
    answer = api.post("/v1/chat/completions", body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")
    assert "larger than 40 MiB" in answer.json()["error"]["message"]


def test_a_body_that_does_not_come(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.api.openai.body.MAX_SECONDS", 0.2)
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{"
    address = httpx.URL(api.url)
    with socket.create_connection((address.host, address.port)) as connection:
        connection.sendall(head)
        assert b"408" in connection.recv(100)


def test_memory_that_others_hold(api: Api, scripted: ScriptedModel) -> None:
    budget = api.service.budget
    budget.take(2**30 - 30_000)
    try:
        answer = api.post("/v1/chat/completions", request(said("hi", scene())))
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "5")
        assert api.post("/v1/chat/completions", request(said("hi"))).status_code == 200
    finally:
        budget.give_back(2**30 - 30_000)
    assert eventually(lambda: budget.held == 0)


@pytest.mark.parametrize(("state", "code"), [("loading", "model_loading"), ("stopping", "server_stopping")])
def test_while_no_model_can_answer(api: Api, monkeypatch: pytest.MonkeyPatch, state: str, code: str) -> None:
    monkeypatch.setattr(OneModel, "state", state)
    for answer in (
        api.post("/v1/chat/completions", request(said("hi"))),
        api.get("/v1/models"),
        api.get("/v1/models/scripted"),
        api.get("/health"),
    ):
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
        assert answer.json()["error"]["code"] == code


def test_an_answer_that_the_stop_ends(api: Api, scripted: ScriptedModel) -> None:
    def stops(_: object) -> str:
        api.models.stop()
        raise RuntimeError("The model was shut down while it answered.")

    scripted.script = [stops]
    try:
        answer = api.post("/v1/chat/completions", request(said("hi")))
    finally:
        api.models._state = "ready"
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "server_stopping")
