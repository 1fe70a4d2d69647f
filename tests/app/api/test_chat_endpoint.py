"""The `/chat` endpoint as a program sees it, and what the server does not offer."""

from __future__ import annotations

import json
from dataclasses import asdict, fields, replace
from pathlib import Path

import httpx
import numpy as np
import pytest
from gradio_client import Client, handle_file  # type: ignore[import-untyped]
from gradio_client.exceptions import AppError  # type: ignore[import-untyped]
from PIL import Image

from app.api.chat_endpoint import CHARACTERS_PER_TOKEN, past_exchanges
from app.chat.exchange import WantedExtras
from app.extras.extended_model import ExtendedModel
from app.page.components import build_demo
from models.conversation import Sampling
from models.errors import NotEnoughMemory, RequestError
from models.extras import Extras
from tests.app.extras.scripted import EXTENDED_INFO, OTHER, READS, ScriptedGenerator, ScriptedReader
from tests.app.helpers import Serve, Server
from tests.fakes import INFO, ScriptedModel

MANY = len(fields(Sampling)) + 1  # settings, and one more
PAIR = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]


@pytest.fixture
def client(server: Server) -> Client:
    return Client(server.url, verbose=False)


def test_image_and_text_in_answer_and_regions_out(server: Server, client: Client, scene_file: Path) -> None:
    server.model.script = ["<p>red circle</p> {<10><20><45><60>}"]
    answer, regions = client.predict(handle_file(scene_file), "[detection] red circle", api_name="/chat")
    assert answer == "<p>red circle</p> {<10><20><45><60>}"
    assert regions["image"] == {"width": 200, "height": 100}
    assert regions["regions"][0]["pixels"] == [21, 20, 91, 60]
    assert server.model.seen[-1][0].images[0].size == (200, 100)


def test_it_streams(server: Server, client: Client) -> None:
    server.model.script, server.model.delay = ["one two three four"], 0.1
    job = client.submit(None, "count", api_name="/chat")
    assert job.result() == ("one two three four", {})  # no image, so no regions
    assert len(job.outputs()) > 2


def test_history_and_settings(server: Server, client: Client, scene_file: Path) -> None:
    history = [{"role": "user", "content": "what?"}, {"role": "assistant", "content": "a dog"}]
    client.predict(handle_file(scene_file), "colour?", history, 0, 0.5, 12, 1.5, 9, api_name="/chat")
    turns = server.model.seen[-1]
    assert [(turn.role, turn.text, len(turn.images)) for turn in turns] == [
        ("user", "what?", 1),
        ("assistant", "a dog", 0),
        ("user", "colour?", 0),
    ]
    sampling = server.model.samplings[-1]
    assert (sampling.temperature, sampling.top_p, sampling.max_new_tokens) == (0, 0.5, 12)
    assert (sampling.repetition_penalty, sampling.seed) == (1.5, 9)


@pytest.mark.parametrize(
    ("text", "history", "message"),
    [
        ("", [], "Type a question"),
        ("[refer] dog", [], "add one first"),
        ("x", [{"role": "assistant", "content": "a"}], "history must hold"),
        ("x", [{"role": "user", "content": "a"}], "history must end with an answer"),
        ("x", ["a", "b"], "history must hold"),
        ("x", PAIR * (INFO.context_tokens // 2) + PAIR, f"too long: {INFO.context_tokens + 2} turns"),
        ("x", [PAIR[0], {"role": "assistant", "content": "a" * 100 * INFO.context_tokens}], "history is too long"),
    ],
)
def test_mistakes_are_one_line(client: Client, text: str, history: list[object], message: str) -> None:
    with pytest.raises(AppError, match=message):
        client.predict(None, text, history, api_name="/chat")


def test_a_history_may_be_as_long_as_the_limit() -> None:
    model = ScriptedModel()
    most = CHARACTERS_PER_TOKEN * INFO.context_tokens
    history = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b" * (most - 1)}]
    assert len(past_exchanges(model, history, WantedExtras())) == 1
    assert len(past_exchanges(model, PAIR * (INFO.context_tokens // 2), WantedExtras())) == INFO.context_tokens // 2
    history[1]["content"] += "b"
    with pytest.raises(RequestError, match="history is too long"):
        past_exchanges(model, history, WantedExtras())


def test_control_tokens_in_a_history_are_broken() -> None:
    history = [{"role": "user", "content": "a </s> b"}, {"role": "assistant", "content": "c"}]
    (exchange,) = past_exchanges(ScriptedModel(), history, READS)
    assert (exchange.question, exchange.text, exchange.extras) == ("a < /s> b", "c", READS)


@pytest.mark.usefixtures("no_stray_event_loops")
def test_values_that_are_left_out_are_the_familys_but_for_the_seed() -> None:
    sampling = Sampling(temperature=0.25, top_p=0.5, max_new_tokens=77, repetition_penalty=1.2, seed=9)
    page = build_demo(ScriptedModel(info=replace(INFO, sampling=sampling)))
    parameters = page.get_api_info()["named_endpoints"]["/chat"]["parameters"]
    defaults = {one["parameter_name"]: one["parameter_default"] for one in parameters if one["parameter_has_default"]}
    assert defaults == {"image": None, "text": "", "history": [], **asdict(replace(sampling, seed=None))}


def test_every_value_has_a_name_and_a_default(server: Server, client: Client, scene_file: Path) -> None:
    answer, regions = client.predict(
        text="what?", image=handle_file(scene_file), seed=5, temperature=0, api_name="/chat"
    )
    assert (answer, regions["image"]["width"]) == ("A red circle and a blue square.", 200)
    sampling = server.model.samplings[-1]
    assert (sampling.seed, sampling.temperature, sampling.top_p) == (5, 0, INFO.sampling.top_p)
    assert client.predict(text="hi", api_name="/chat")[0] == answer
    with pytest.raises(AppError, match="Type a question"):
        client.predict(api_name="/chat")


def call(server: Server, path: str, body: object) -> str:
    """The events of a call by plain HTTP."""
    url = f"{server.url}gradio_api/call/{path}"
    event = httpx.post(url, json=body).json()["event_id"]
    return httpx.get(f"{url}/{event}", timeout=30).text


@pytest.mark.parametrize(
    "data", [[None, "hi"], [None, "hi", []], [None, "hi", None, None, None, None, None, None], [None, "hi", [], 0.5]]
)
def test_values_at_the_end_may_be_left_out(server: Server, data: list[object]) -> None:
    assert "event: complete" in call(server, "chat", {"data": data})
    assert server.model.samplings[-1].max_new_tokens == INFO.sampling.max_new_tokens


def test_plain_http_takes_names(server: Server) -> None:
    assert "event: complete" in call(server, "v2/chat", {"text": "hi", "seed": 7})
    assert server.model.samplings[-1].seed == 7


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([None], "Type a question"),
        ([], "Type a question"),
        ([None, 5], "text is 5; it must be a text."),
        ([None, "hi", "no"], "history is 'no'; it must be a list of turns."),
        ([None, "hi", [], "hot"], "temperature is 'hot'; it must be a number."),
        ([None, "hi", [], 0.5, 0.5, True], "max_new_tokens is True; it must be a number."),
        (["photo.png", "hi"], "image is 'photo.png'; it must be an uploaded file"),
        ([{"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}, "hi"], "The values can't be read"),
        ([{"path": "http://127.0.0.1:9/a.png", "meta": {"_type": "gradio.FileData"}}, "hi"], "fetches no address"),
        ([None, "hi", [], *[1] * MANY], f"{3 + MANY} values were sent; there are {2 + MANY}: image, text, history"),
    ],
)
def test_wrong_values_are_one_line(server: Server, data: list[object], message: str) -> None:
    answer = call(server, "chat", {"data": data})
    assert "event: error" in answer
    assert message in json.loads(answer.split("data: ")[-1])["error"]
    assert server.model.seen == []


def test_a_failing_model_tells_why(server: Server, client: Client) -> None:
    server.model.script = [NotEnoughMemory("No memory for this question. Ask a shorter one.")]
    with pytest.raises(AppError, match="Ask a shorter one"):
        client.predict(None, "hello", api_name="/chat")


def test_something_that_is_not_an_image(client: Client, tmp_path: Path) -> None:
    path = tmp_path / "cat.png"
    path.write_text("no cat", encoding="utf-8")
    with pytest.raises(AppError, match=r"cat\.png is not an image"):
        client.predict(handle_file(path), "hello", api_name="/chat")


def test_only_chat_is_offered(client: Client) -> None:
    endpoints = client.view_api(return_format="dict")
    assert isinstance(endpoints, dict)
    assert list(endpoints["named_endpoints"]) == ["/chat"]
    assert endpoints["unnamed_endpoints"] == {}


@pytest.fixture
def extended(serve: Serve) -> tuple[Client, ScriptedModel]:
    """A page whose model was started with `--ocr`, and reads and draws by a script."""
    inner = ScriptedModel(info=replace(EXTENDED_INFO, extras=Extras(ocr=True)))
    model = ExtendedModel(inner, reader=ScriptedReader("EXIT 42"), generator=ScriptedGenerator())
    return Client(serve(model), verbose=False), inner


def test_text_is_read_and_a_picture_drawn(extended: tuple[Client, ScriptedModel], scene_file: Path) -> None:
    client, inner = extended
    inner.script = ["A sign.", "Look: <h>a lake</h>", "No."]
    answer, regions, picture, notices = client.predict(handle_file(scene_file), "What is it?", api_name="/chat")
    assert (answer, regions["regions"], picture) == ("A sign.", [], None)
    assert notices == ["Text read in the image: EXIT 42"]
    assert inner.last_question() == "What is it?\nReference OCR Token: EXIT 42\n"
    history = [{"role": "user", "content": "What is it?"}, {"role": "assistant", "content": "A sign."}]
    extras = {"history": history, "read_text": False, "draw_picture": True, "api_name": "/chat"}
    answer, _, picture, notices = client.predict(handle_file(scene_file), "Draw it.", **extras)
    assert (answer, notices) == ("Look: <h>a lake</h>", [])
    assert [turn.text for turn in inner.seen[-1]] == ["What is it? <GEN>", "A sign.", "Draw it. <GEN>"]
    assert np.array_equal(np.array(Image.open(picture).convert("RGB")), np.array(OTHER))
    *_, picture, notices = client.predict(handle_file(scene_file), "Draw it.", **extras)
    assert picture is None
    assert "described no picture" in notices[0]
