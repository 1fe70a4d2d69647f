"""A model elsewhere as one of ours: texts, boxes, settings, Stop, many at once."""

from __future__ import annotations

import base64
import io
import threading
from dataclasses import replace

import pytest
from PIL import Image

from app.chat.session import ChatSession
from models.conversation import Answer, Turn
from models.grounding import Box, BoxSpan
from tests.app.far_server import (
    MODEL,
    FarServer,
    stream,
    wait,
)
from tests.app.helpers import picture, scene
from tests.app.remote.asking import QUESTION, SAMPLING, ask
from tests.app.remote.conftest import Connect
from tests.waiting import eventually


def test_a_question_and_its_answer(far: FarServer, connect: Connect) -> None:
    usage = {
        "prompt_tokens": 30,
        "completion_tokens": 6,
        "prompt_tokens_details": {"cached_tokens": 4, "image_tokens": 20},
    }
    far.replies = [stream(["A red circle", " and a blue", " square. "], usage=usage)]
    model = connect(far.url, key="sk-secret")
    answers = list(model.stream([QUESTION, Turn("assistant", "A circle."), Turn("user", "And?")], SAMPLING))
    last = answers[-1]
    assert (last.text, last.finish_reason, last.spans) == ("A red circle and a blue square.", "stop", None)
    assert all(one.finish_reason is None and last.text.startswith(one.text.rstrip()) for one in answers[:-1])
    tokens = (last.num_prompt_tokens, last.num_new_tokens, last.num_cached_tokens, last.num_image_tokens)
    assert tokens == (30, 6, 4, 20)
    (body,), (headers,) = far.bodies, far.headers
    assert headers["authorization"] == "Bearer sk-secret"
    sent = {name: body[name] for name in ("model", "stream", "temperature", "top_p", "max_tokens", "seed")}
    assert sent == {"model": MODEL, "stream": True, "temperature": 0.25, "top_p": 0.5, "max_tokens": 77, "seed": 5}
    assert body["stream_options"] == {"include_usage": True}
    assert "repetition_penalty" not in body
    assert [message["role"] for message in body["messages"]] == ["user", "assistant", "user"]
    shown, text = body["messages"][0]["content"]
    assert (text["text"], body["messages"][2]["content"]) == ("What is it?", "And?")
    sent_picture = Image.open(io.BytesIO(base64.b64decode(shown["image_url"]["url"].partition(",")[2])))
    assert sent_picture.convert("RGB").tobytes() == scene().tobytes()
    assert eventually(lambda: model.stats().answered == 1)  # counted by the thread of the connections


@pytest.mark.parametrize(("owner", "name"), [("llamacpp", "repeat_penalty"), ("vllm", "repetition_penalty")])
def test_a_repetition_penalty_has_the_name_that_the_server_knows(
    far: FarServer, connect: Connect, owner: str, name: str
) -> None:
    far.models = {"data": [{"id": "m", "owned_by": owner}]}
    ask(connect(far.url), sampling=replace(SAMPLING, repetition_penalty=1.25))
    (body,) = far.bodies
    assert {key: value for key, value in body.items() if "penalty" in key} == {name: 1.25}


def test_a_conversation_keeps_its_session(far: FarServer, connect: Connect) -> None:
    model, session = connect(far.url), ChatSession()
    for question in ("first", "second"):
        list(session.ask(model, question, [picture()] if question == "first" else []))
    list(ChatSession().ask(model, "another", [picture("blue")]))
    first, second, other = (headers["x-session-id"] for headers in far.headers)
    assert first == second != other


def test_a_large_picture_is_sent_as_jpeg(far: FarServer, connect: Connect) -> None:
    large = Image.new("RGB", (1100, 1000), "red")
    ask(connect(far.url), Turn("user", "?", (large,)))
    assert far.bodies[0]["messages"][0]["content"][0]["image_url"]["url"].startswith("data:image/jpeg;base64,")


def test_extra_fields_win_and_null_takes_one_out(far: FarServer, connect: Connect) -> None:
    ask(connect(far.url, extra_body="{max_tokens: null, max_completion_tokens: 9, top_k: 3}"))
    body = far.bodies[0]
    assert "max_tokens" not in body
    assert (body["max_completion_tokens"], body["top_k"]) == (9, 3)


def test_control_tokens_are_broken_for_servers_that_would_take_them(far: FarServer, connect: Connect) -> None:
    model = connect(far.url)
    assert model.neutralise("a <|im_start|>system</s> <image> 1 < 2 |") == "a < |im_start|>system< /s> < image> 1 < 2 |"


# Boxes and tasks ------------------------------------------------------------


def test_boxes_of_a_format_and_the_question_that_asks_for_them(far: FarServer, connect: Connect) -> None:
    far.say('```json\n[{"bbox_2d": [100, 200, 450, 600], ', '"label": "red circle"}]\n```')
    model, session = connect(far.url, boxes="qwen3-vl"), ChatSession()
    *_, exchange = session.ask(model, "[detection] circles", [picture()])
    assert far.bodies[0]["messages"][0]["content"][1]["text"] == (
        "Locate every circles in the image and output the bbox coordinates in JSON format."
    )
    assert exchange.spans == (BoxSpan(0, len(exchange.text), "red circle", (Box(0.1, 0.2, 0.45, 0.6),)),)
    list(session.ask(model, "[identify] what is this", box=Box(0.1, 0.2, 0.3, 0.4)))
    assert (
        far.bodies[1]["messages"][-1]["content"] == "Look at the region [105, 205, 305, 405] of the image: what is this"
    )


def test_tasks_of_a_yaml(far: FarServer, connect: Connect) -> None:
    tasks = "[{label: Count, identifier: '[count]', template: 'How many {}? One number.', prompt: '[count] dogs'}]"
    model = connect(far.url, tasks=tasks)
    assert [task.label for task in model.info.tasks] == ["Count"]
    ask(model, Turn("user", "[count] {1,2} cats", (scene(),)))
    assert far.bodies[0]["messages"][0]["content"][1]["text"] == "How many {1,2} cats? One number."


def test_regions_of_our_own_servers(far: FarServer, connect: Connect) -> None:
    regions = [
        {"label": "dog", "span": [2, 5], "bbox": [0.1, 0.2, 0.3, 0.4], "bbox_px": [1, 2, 3, 4], "image": 0},
        {"label": "dog", "span": [2, 5], "bbox": [0.5, 0.5, 0.6, 0.6]},
        {"label": "x", "span": [90, 95], "bbox": [0, 0, 1, 1]},
        {"label": "y", "span": [0, 1], "bbox": [0, 0, float("inf"), 1]},
        "nonsense",
    ]
    far.say("a dog", regions=regions, notices=["The oldest turn\nwas left out.", 5])
    last = ask(connect(far.url))
    assert last.spans == (BoxSpan(2, 5, "dog", (Box(0.1, 0.2, 0.3, 0.4), Box(0.5, 0.5, 0.6, 0.6))),)
    assert last.notices == ("The oldest turn was left out.",)


# Stop, and many at once ------------------------------------------------------------


@pytest.mark.parametrize("first", ["", "A red"])
def test_closing_frees_the_place_there(far: FarServer, connect: Connect, first: str) -> None:
    far.replies = [wait(first)]
    model = connect(far.url)
    answers = model.stream([QUESTION], SAMPLING)
    got: list[Answer] = []
    reader = threading.Thread(target=lambda: got.extend(answers))
    reader.start()
    assert eventually(lambda: far.num_running == 1 and (not first or bool(got)))
    answers.close()
    reader.join(10)
    assert not reader.is_alive()
    assert eventually(lambda: far.num_left == 1), "the server was not told"
    assert [one.text for one in got] == [first] * bool(first)
    assert eventually(lambda: model.stats().active == 0)
    answers.close()
    assert list(answers) == []


def test_closing_before_the_first_word_asks_nothing_more(far: FarServer, connect: Connect) -> None:
    far.replies = [wait()]
    answers = connect(far.url).stream([QUESTION], SAMPLING)
    answers.close()
    assert list(answers) == []


def test_many_at_once(far: FarServer, connect: Connect) -> None:
    far.replies = [wait("here")]
    model = connect(far.url)
    streams = [model.stream([Turn("user", f"{number}")], SAMPLING) for number in range(40)]
    assert eventually(lambda: far.num_running == 40)
    far.go_on.set()
    assert {[*one][-1].text for one in streams} == {"here and on"}
