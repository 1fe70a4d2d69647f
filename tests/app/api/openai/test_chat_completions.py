"""Chat completions as OpenAI's own client sees them."""

from __future__ import annotations

import threading
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import httpx
import openai
import pytest
from openai.types.chat import ChatCompletion

from app.api.openai.completion import Completion
from app.api.openai.from_messages import Conversation
from models.conversation import Answer
from models.errors import ContextOverflow
from tests.app.api.conftest import ANSWER
from tests.app.api.serving import NAME, Api, data_uri, joined, request, said
from tests.app.helpers import scene
from tests.fakes import ScriptedModel
from tests.waiting import eventually

BOX = "<p>red circle</p> {<10><20><45><60>}"


def test_an_answer(client: openai.OpenAI, scripted: ScriptedModel) -> None:
    answer = client.chat.completions.create(**request(said("What is there?", scene())))
    assert isinstance(answer, ChatCompletion)
    (choice,) = answer.choices
    assert (choice.message.content, choice.message.role, choice.finish_reason) == (ANSWER, "assistant", "stop")
    assert (answer.object, answer.model) == ("chat.completion", NAME)
    (turn,) = scripted.seen[-1]
    assert (turn.text, turn.images[0].size) == ("What is there?", (200, 100))


@pytest.mark.parametrize("kind", ["tiff", "avif", "bmp", "webp", "heif"])
def test_pictures_of_every_kind_that_the_page_takes(client: openai.OpenAI, scripted: ScriptedModel, kind: str) -> None:
    if kind == "heif":
        pytest.importorskip("pillow_heif").register_heif_opener()
    url = data_uri(scene(), kind).replace("image/heif", "image/heic")
    parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "What?"}]
    client.chat.completions.create(**request({"role": "user", "content": parts}))
    assert scripted.seen[-1][-1].images[0].size == (200, 100)


def test_a_stream(client: openai.OpenAI, scripted: ScriptedModel) -> None:
    scripted.delay = 0.06
    chunks = list(client.chat.completions.create(**request(said("Hello"), stream=True)))
    first, *middle, last = chunks
    assert (first.choices[0].delta.role, first.choices[0].delta.content) == ("assistant", "")
    assert joined(chunks) == ANSWER
    assert len(middle) > 2
    assert {chunk.choices[0].finish_reason for chunk in chunks[:-1]} == {None}
    assert (last.choices[0].finish_reason, last.choices[0].delta.content) == ("stop", None)
    assert len({(chunk.id, chunk.created, chunk.model) for chunk in chunks}) == 1
    assert all(chunk.usage is None for chunk in chunks)


def test_the_usage_of_a_stream_comes_in_a_chunk_of_its_own(client: openai.OpenAI) -> None:
    *_, last, usage = client.chat.completions.create(
        **request(said("Hello"), stream=True, stream_options={"include_usage": True})
    )
    assert last.choices[0].finish_reason == "stop"
    assert usage.choices == []
    assert (usage.usage.prompt_tokens, usage.usage.completion_tokens, usage.usage.total_tokens) == (5, 7, 12)


def test_a_stream_is_events_that_end_with_done(api: Api) -> None:
    answer = api.post("/v1/chat/completions", request(said("Hello"), stream=True))
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = answer.text.split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    assert all(event.startswith("data: ") for event in events[:-1])


def test_boxes_are_regions_and_the_text_is_left_alone(client: openai.OpenAI, scripted: ScriptedModel) -> None:
    text = f"There is a {BOX}."
    scripted.default = text
    asked = request(said("[detection] red circle", scene()))
    message = client.chat.completions.create(**asked).choices[0].message
    assert message.content == text
    (region,) = message.regions
    assert region == {
        "label": "red circle",
        "span": [11, 11 + len(BOX)],
        "bbox": [0.105, 0.205, 0.455, 0.605],
        "bbox_px": [21, 20, 91, 60],
        "image": 0,
    }
    assert text[slice(*region["span"])] == BOX
    *_, last = client.chat.completions.create(**asked, stream=True)
    assert last.choices[0].delta.regions == [region]


def test_a_box_without_words_is_what_was_asked_for(client: openai.OpenAI, scripted: ScriptedModel) -> None:
    scripted.default = "{<10><20><45><60>}"
    message = client.chat.completions.create(**request(said("[refer] the red circle", scene()))).choices[0].message
    assert [region["label"] for region in message.regions] == ["the red circle"]


def test_a_task_needs_no_prompt(client: openai.OpenAI, scripted: ScriptedModel) -> None:
    client.chat.completions.create(**request(said("red circle", scene())), extra_body={"task": "detection"})
    assert scripted.last_question() == "[detection] red circle"
    client.chat.completions.create(**request(said("", scene())), extra_body={"task": "grounding"})
    assert scripted.last_question() == "[grounding] describe this image in detail"


def test_settings_reach_the_model(client: openai.OpenAI, scripted: ScriptedModel) -> None:
    client.chat.completions.create(
        **request(said("Hi"), temperature=0, top_p=0.5, max_tokens=7, max_completion_tokens=9, seed=-(2**63))
    )
    sampling = scripted.samplings[-1]
    assert (sampling.temperature, sampling.top_p, sampling.max_new_tokens, sampling.seed) == (0, 0.5, 9, -(2**63))
    client.chat.completions.create(
        **request(said("Hi"), temperature=None, max_tokens=3, top_p=0, user="me", store=True)
    )
    sampling = scripted.samplings[-1]
    assert (sampling.temperature, sampling.max_new_tokens) == (0.6, 3)
    assert 0 < sampling.top_p < 1e-3
    assert sampling.seed is not None


@pytest.mark.parametrize("stream", [False, True])
def test_stop_texts(client: openai.OpenAI, scripted: ScriptedModel, stream: bool) -> None:
    scripted.default, scripted.delay = "one two three four five", 0.1
    asked = request(said("count"), stop=["three fo", "four"], stream=stream)
    answer = client.chat.completions.create(**asked)
    text = joined(list(answer)) if stream else answer.choices[0].message.content
    assert text == "one two "
    assert eventually(lambda: scripted.closed_early == 1)


def test_a_client_that_leaves_frees_the_model(client: openai.OpenAI, scripted: ScriptedModel) -> None:
    scripted.default, scripted.delay = "one " * 1000, 0.05  # longer than anybody waits here
    with client.chat.completions.create(**request(said("count"), stream=True)) as stream:
        next(iter(stream))
    assert eventually(lambda: scripted.closed_early == 1)


def test_a_client_that_gives_up_before_the_answer_frees_the_model(api: Api, scripted: ScriptedModel) -> None:
    scripted.default, scripted.delay = "one " * 1000, 0.05  # longer than anybody waits here
    with api.client(timeout=0.5) as client, pytest.raises(openai.APITimeoutError):
        client.chat.completions.create(**request(said("count", scene())))
    assert eventually(lambda: scripted.closed_early == 1)


def test_a_stream_that_waits_begins_and_keeps_its_line_open(
    api: Api, scripted: ScriptedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.api.openai.responses.START_SECONDS", 0.05)
    monkeypatch.setattr("app.api.openai.responses.PING_SECONDS", 0.05)
    scripted.gate = threading.Semaphore(0)
    url = f"{api.url}v1/chat/completions"
    with httpx.stream("POST", url, json=request(said("hi"), stream=True), timeout=30) as answer:
        lines = (line for line in answer.iter_lines() if line)
        assert '"role":"assistant"' in next(lines)
        assert next(lines) == ": still working"
        scripted.open_gate()
        assert list(lines)[-1] == "data: [DONE]"


def test_an_error_after_the_beginning_of_a_stream(
    client: openai.OpenAI, scripted: ScriptedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.api.openai.responses.START_SECONDS", 0.05)
    scripted.gate, scripted.script = threading.Semaphore(0), [ContextOverflow("Too long.")]
    stream = iter(client.chat.completions.create(**request(said("hi"), stream=True)))
    assert next(stream).choices[0].delta.role == "assistant"
    scripted.open_gate()
    with pytest.raises(openai.APIError, match="Too long") as caught:
        next(stream)
    assert caught.value.code == "context_length_exceeded"


def test_a_text_that_begins_anew_goes_on_in_a_new_line() -> None:
    completion = Completion(NAME, Conversation(turns=()))
    sent = ""
    for text in ("I say", "I say Assist", "hello", "hello there"):
        completion.update(Answer(text=text))
        sent += completion.new_text()
    assert sent == "I say Assist\nhello there"


def test_a_conversation(client: openai.OpenAI, scripted: ScriptedModel) -> None:
    client.chat.completions.create(
        **request(
            {"role": "system", "content": "Be brief."},
            said("[vqa] What?", scene()),
            {"role": "assistant", "content": "A dog."},
            {"role": "user", "content": "Sure?"},
            {"role": "user", "content": [{"type": "text", "text": "Look again."}]},
        )
    )
    assert [(turn.role, turn.text, len(turn.images)) for turn in scripted.seen[-1]] == [
        ("user", "[vqa] Be brief.\nWhat?", 1),
        ("assistant", "A dog.", 0),
        ("user", "Sure?\nLook again.", 0),
    ]


def test_control_tokens_are_broken(client: openai.OpenAI, scripted: ScriptedModel) -> None:
    client.chat.completions.create(**request({"role": "developer", "content": "</s>"}, said("a <s> b")))
    assert scripted.last_question() == "< /s>\na < s> b"


def test_pictures_may_be_bare_texts_in_any_wrapping(client: openai.OpenAI, scripted: ScriptedModel) -> None:
    head, data = data_uri(scene(), "jpeg").split(",")
    wrapped = "\n".join(data[place : place + 76] for place in range(0, len(data), 76))
    uri = head.replace(";base64", ";charset=utf-8;base64") + "," + wrapped
    message = {"role": "user", "content": [{"type": "image_url", "image_url": uri}]}
    client.chat.completions.create(**request(message), extra_body={"task": "caption"})
    assert scripted.seen[-1][-1].images[0].size == (200, 100)


@pytest.mark.parametrize(("facts", "answers"), [({}, True), ({"one_image_per_chat": True}, False)])
def test_the_list_says_whether_a_question_needs_a_picture(
    client: openai.OpenAI, scripted: ScriptedModel, facts: dict[str, Any], answers: bool
) -> None:
    scripted.info = replace(scripted.info, answers_without_image=True, **facts)
    assert client.models.retrieve(NAME).to_dict()["answers_without_image"] is answers
    refusal = (
        nullcontext() if answers else pytest.raises(openai.BadRequestError, match="trained to talk about an image")
    )
    with refusal:
        client.chat.completions.create(**request(said("Hello")))


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [NAME]
    assert client.models.retrieve(NAME).owned_by == "minivlm-chat"
    with pytest.raises(
        openai.NotFoundError, match="There is no model 'Vision-CAIR/MiniGPT-v2' here; there is scripted"
    ):
        client.models.retrieve("Vision-CAIR/MiniGPT-v2")
