"""The program in front of itself: the same answers, boxes, tasks and notices, through any number of servers."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack

import openai
import pytest

from app.chat.session import ChatSession
from app.remote.remote_config import remote_config
from app.remote.remote_model import RemoteModel
from app.remote.served_elsewhere import find_served
from models.conversation import Sampling
from models.errors import Busy, ContextOverflow
from models.grounding import Box
from tests.app.api.serving import Api, joined, request, said, serve_api
from tests.app.helpers import picture, scene
from tests.fakes import TASKS, ScriptedModel
from tests.waiting import eventually

TEXT = "<p>red circle</p> {<10><20><45><60>}<delim>{<1><2><3><4>} here"
BOXES = [[0.105, 0.205, 0.455, 0.605], [0.015, 0.025, 0.035, 0.045]]


def in_front_of(url: str) -> RemoteModel:
    """A model that is the first of the server at this address."""
    config = remote_config(None, [], url=f"{url}v1", key=None, model=None)
    assert config is not None
    return RemoteModel(find_served(config))


@pytest.fixture(scope="module")
def chain(no_stray_event_loops: None) -> Iterator[tuple[ScriptedModel, Api, RemoteModel, Api]]:
    """A scripted model, its server, a model in front of that, and the server of this one."""
    model = ScriptedModel()
    with ExitStack() as stack:
        far = stack.enter_context(serve_api(model))
        remote = stack.enter_context(in_front_of(far.url))
        near = stack.enter_context(serve_api(remote, name="near", stats=remote.stats))
        yield model, far, remote, near


@pytest.fixture(autouse=True)
def fresh(chain: tuple[ScriptedModel, Api, RemoteModel, Api]) -> Iterator[None]:
    model = chain[0]
    model.script, model.default, model.gate = [], TEXT, None
    model.seen.clear()
    yield
    model.open_gate()
    assert eventually(lambda: model.open_streams == 0), "an answer was left running"
    assert eventually(lambda: chain[2].stats().active == 0)


def test_the_page_has_the_same_tasks_and_settings(chain: tuple[ScriptedModel, Api, RemoteModel, Api]) -> None:
    model, _, remote, _ = chain
    assert [(task.label, task.identifier, task.phrasings) for task in remote.info.tasks] == [
        (task.label, task.identifier, task.phrasings) for task in TASKS
    ]
    assert remote.info.sampling == model.info.sampling
    assert remote.info.name == model.info.name


def test_a_conversation_means_the_same_there(chain: tuple[ScriptedModel, Api, RemoteModel, Api]) -> None:
    """Turn for turn, with task, box and settings, as if the model were here."""
    model, _, remote, _ = chain
    here, there = ChatSession(), ChatSession()
    for session, asked in ((here, model), (there, remote)):
        sampling = Sampling(temperature=0.5, seed=7, max_new_tokens=50)
        for text, box in (
            ("[detection]  circle", None),
            ("[identify] what is this", Box(0.1, 0.2, 0.3, 0.4)),
            ("<s> and {<5><6><1><2>}?", None),
        ):
            pictures = [] if session.exchanges else [picture()]
            exchange = list(session.ask(asked, text, pictures, sampling, box=box))[-1]
            assert not exchange.error
    ours, theirs = model.seen[:3], model.seen[3:]
    assert [[(turn.role, turn.text, len(turn.images)) for turn in turns] for turns in theirs] == [
        [(turn.role, turn.text, len(turn.images)) for turn in turns] for turns in ours
    ]
    assert theirs[0][0].images[0].tobytes() == ours[0][0].images[0].tobytes()
    assert model.samplings[-1] == model.samplings[-4]
    assert [one.text for one in there.exchanges] == [one.text for one in here.exchanges]
    spans = there.exchanges[0].spans
    assert spans is not None
    assert [[round(edge, 4) for edge in (box.x0, box.y0, box.x1, box.y1)] for box in spans[0].boxes] == BOXES


def test_v1_passes_through_two_servers(chain: tuple[ScriptedModel, Api, RemoteModel, Api]) -> None:
    _, far, _, near = chain
    with near.client() as client:
        answer = client.chat.completions.create(
            **request(said("circle", scene()), model="near"), extra_body={"task": "detection"}
        )
        chunks = list(client.chat.completions.create(**request(said("hi", scene()), model="near"), stream=True))
    message = answer.choices[0].message
    direct = far.post("/v1/chat/completions", request(said("circle", scene()), task="detection")).json()
    assert message.content == TEXT == joined(chunks)
    assert [region["bbox"] for region in message.regions] == BOXES
    for region, theirs in zip(message.regions, direct["choices"][0]["message"]["regions"], strict=True):
        assert {**region, "bbox_px": ()} == {**theirs, "bbox_px": ()}  # pixels may differ by one, as `bbox` is rounded
    assert answer.usage is not None
    assert answer.usage.completion_tokens == direct["usage"]["completion_tokens"] > 0
    assert "minivlm_answered_total" in near.get("/metrics").text


def test_stop_reaches_the_model_through_both(chain: tuple[ScriptedModel, Api, RemoteModel, Api]) -> None:
    model, _, _, near = chain
    model.gate = threading.Semaphore(1)
    model.default = "word " * 10_000
    with near.client() as client:
        stream = client.chat.completions.create(**request(said("hi", scene()), model="near"), stream=True)
        assert eventually(lambda: model.open_streams == 1)
        closed = model.closed_early
        stream.close()

    def is_closed() -> bool:
        assert model.gate is not None
        model.gate.release()  # the scripted model notices at its next piece
        return model.closed_early > closed

    assert eventually(is_closed)


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [(Busy("The queue is full."), 429, "queue_full"), (ContextOverflow("Too long."), 400, "context_length_exceeded")],
)
def test_its_errors_stay_what_they_are(
    chain: tuple[ScriptedModel, Api, RemoteModel, Api], error: Exception, status: int, code: str
) -> None:
    model, _, _, near = chain
    model.script = [error]
    with near.client() as client, pytest.raises(openai.APIStatusError) as raised:
        client.chat.completions.create(**request(said("hi", scene()), model="near"))
    assert (raised.value.status_code, raised.value.code) == (status, code)
    assert str(error).rstrip(".") in raised.value.message


def test_many_chats_at_once(chain: tuple[ScriptedModel, Api, RemoteModel, Api]) -> None:
    model, _, remote, _ = chain
    model.default = lambda turns: f"You said {turns[-1].text} to me"
    sessions = [ChatSession() for _ in range(20)]
    updates = [session.ask(remote, f"number {index}", [picture()]) for index, session in enumerate(sessions)]
    texts = [list(one)[-1].text for one in updates]
    assert texts == [f"You said number {index} to me" for index in range(20)]
