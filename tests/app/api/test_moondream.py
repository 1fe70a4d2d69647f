"""What moondream's cloud client sends and reads, field by field."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import pytest

from tests.app.api.conftest import ANSWER
from tests.app.api.serving import Api, data_uri
from tests.app.helpers import scene
from tests.fakes import INFO, TASKS, ScriptedModel

BOXES = "<p>circle</p> {<10><20><45><60>}<delim>{<60><30><90><90>}"


def ask(api: Api, skill: str, **fields: Any) -> Any:
    """What a client reads from the response."""
    answer = api.post(f"/v1/{skill}", {"image_url": data_uri(scene(), "jpeg"), **fields})
    assert answer.status_code == 200, answer.text
    return answer.json()


def refused(api: Api, skill: str, body: dict[str, Any]) -> Any:
    answer = api.post(f"/v1/{skill}", body)
    assert answer.status_code == 400
    return answer.json()["error"]


def test_query(api: Api, scripted: ScriptedModel) -> None:
    assert ask(api, "query", question="What?", stream=False)["answer"] == ANSWER
    assert scripted.last_question() == "What?"
    assert scripted.seen[-1][0].images[0].size == (200, 100)
    assert api.post("/v1/query", {"question": "No picture?"}).json()["answer"] == ANSWER


def test_settings(api: Api, scripted: ScriptedModel) -> None:
    ask(api, "query", question="What?", settings={"temperature": 0.25, "top_p": 0.5, "max_tokens": 9, "variant": "x"})
    sampling = scripted.samplings[-1]
    assert (sampling.temperature, sampling.top_p, sampling.max_new_tokens) == (0.25, 0.5, 9)


@pytest.mark.parametrize(
    ("length", "prompt"),
    [
        ("short", "[caption] Briefly describe this image."),
        ("normal", "[caption] Briefly describe this image."),
        ("long", "Describe this image in detail."),
    ],
)
def test_captions_ask_what_the_family_was_trained_for(
    api: Api, scripted: ScriptedModel, length: str, prompt: str
) -> None:
    assert ask(api, "caption", length=length)["caption"] == ANSWER
    assert scripted.last_question() == prompt


def test_captions_of_a_family_without_tasks(api: Api, scripted: ScriptedModel) -> None:
    scripted.info = replace(INFO, tasks=TASKS[:1])
    for length, prompt in (("short", "Briefly describe this image."), ("normal", "Describe this image in detail.")):
        ask(api, "caption", length=length)
        assert scripted.last_question() == prompt
    assert "was not trained to find objects" in refused(
        api, "detect", {"image_url": data_uri(scene()), "object": "dog"}
    ).pop("message")


def test_streams(api: Api, scripted: ScriptedModel) -> None:
    scripted.delay = 0.06
    for skill, fields, name in (("query", {"question": "What?"}, "answer"), ("caption", {}, "caption")):
        body = {"image_url": data_uri(scene()), "stream": True, **fields}
        lines = api.post(f"/v1/{skill}", body).text.splitlines()
        events = [json.loads(line.removeprefix("data: ")) for line in lines if line]
        assert "".join(event["chunk"] for event in events) == ANSWER
        assert [event["completed"] for event in events] == [False] * (len(events) - 1) + [True]
        assert events[-1][name] == ANSWER


def test_detect_and_point(api: Api, scripted: ScriptedModel) -> None:
    scripted.default = BOXES
    first, second = ask(api, "detect", object="circle")["objects"]
    assert first == {"x_min": 0.105, "y_min": 0.205, "x_max": 0.455, "y_max": 0.605}  # the middle of their cells
    assert second["x_max"] == 0.905
    assert (scripted.last_question(), scripted.samplings[-1].temperature) == ("[detection] circle", 0)
    assert ask(api, "point", object="circle", settings={"max_objects": 1})["points"] == [
        {"x": pytest.approx(0.28), "y": pytest.approx(0.405)}
    ]


@pytest.mark.parametrize(
    ("skill", "fields", "param", "message"),
    [
        ("query", {}, "question", "field required"),
        ("query", {"question": ""}, "question", "Type a question"),
        ("query", {"question": "x", "reasoning": True}, "reasoning", "not supported"),
        ("query", {"question": "x", "image_url": "https://a.b/c.png"}, "image_url", "data URIs"),
        ("query", {"question": "x", "image_url": "data:image/png;base64,AAAA"}, "image_url", "not an image"),
        ("caption", {"length": "huge", "image_url": data_uri(scene())}, "length", "'short', 'normal' or 'long'"),
        ("caption", {}, "image_url", "add one first"),
        ("detect", {"object": "dog"}, "image_url", "missing"),
        ("detect", {"object": "", "image_url": data_uri(scene())}, "object", r"after \[detection\]"),
        ("point", {"object": "x", "spatial_refs": [[1, 2]]}, "spatial_refs", "not supported"),
    ],
)
def test_mistakes(api: Api, skill: str, fields: dict[str, Any], param: str, message: str) -> None:
    error = refused(api, skill, fields)
    assert error["param"] == param
    assert re.search(message, error["message"]), error["message"]
