"""The `/chat` endpoint as a program sees it, and what the server does not offer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from gradio_client import Client, handle_file  # type: ignore[import-untyped]
from gradio_client.exceptions import AppError  # type: ignore[import-untyped]
from PIL import Image

from app import ui
from app.aids import AidedModel
from models.aids import Aids
from models.errors import NotEnoughMemory
from tests.app.conftest import Server, free_port
from tests.app.test_aids import AIDED_INFO, OTHER, ScriptedGenerator, ScriptedReader
from tests.fakes import INFO, ScriptedModel

PAIR = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]


@pytest.fixture
def client(server: Server) -> Client:
    return Client(server.url, verbose=False)


def test_image_and_text_in_answer_and_regions_out(server: Server, client: Client, scene_file: Path) -> None:
    server.model.script = ["<p>red circle</p> {<10><20><45><60>}"]
    answer, regions = client.predict(handle_file(scene_file), "[detection] red circle", api_name="/chat")
    assert answer == "<p>red circle</p> {<10><20><45><60>}"
    assert regions["image"] == {"width": 200, "height": 100}
    assert regions["regions"][0]["pixels"] == [20, 20, 90, 60]
    assert server.model.seen[-1][0].images[0].size == (200, 100)


def test_it_streams(server: Server, client: Client) -> None:
    server.model.script, server.model.delay = ["one two three four"], 0.1
    job = client.submit(None, "count", api_name="/chat")
    assert job.result()[0] == "one two three four"
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
def aided(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Client, ScriptedModel]]:
    """A page whose model was started with `--ocr`, and reads and draws by a script."""
    inner = ScriptedModel(info=replace(AIDED_INFO, aids=Aids(ocr=True)))
    model = AidedModel(inner, reader=ScriptedReader("EXIT 42"), generator=ScriptedGenerator())
    monkeypatch.setattr(ui, "with_aids", lambda _: model)
    demo = ui.build_demo(inner)
    _, url, _ = demo.launch(prevent_thread_lock=True, quiet=True, server_port=free_port())
    yield Client(url, verbose=False), inner
    demo.close(verbose=False)


def test_text_is_read_and_a_picture_drawn(aided: tuple[Client, ScriptedModel], scene_file: Path) -> None:
    client, inner = aided
    inner.script = ["A sign.", "Look: <h>a lake</h>", "No."]
    answer, regions, picture, notices = client.predict(handle_file(scene_file), "What is it?", api_name="/chat")
    assert (answer, regions["regions"], picture) == ("A sign.", [], None)
    assert notices == ["Text read in the image: EXIT 42"]
    assert inner.last_question() == "What is it?\nReference OCR Token: EXIT 42\n"
    history = [{"role": "user", "content": "What is it?"}, {"role": "assistant", "content": "A sign."}]
    wishes = {"history": history, "read_text": False, "draw_picture": True, "api_name": "/chat"}
    answer, _, picture, notices = client.predict(handle_file(scene_file), "Draw it.", **wishes)
    assert (answer, notices) == ("Look: <h>a lake</h>", [])
    assert [turn.text for turn in inner.seen[-1]] == ["What is it? <GEN>", "A sign.", "Draw it. <GEN>"]
    assert np.array_equal(np.array(Image.open(picture).convert("RGB")), np.array(OTHER))
    *_, picture, notices = client.predict(handle_file(scene_file), "Draw it.", **wishes)
    assert picture is None
    assert "described no picture" in notices[0]
