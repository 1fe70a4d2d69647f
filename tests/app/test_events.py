"""The listeners, without a browser: what the page says and puts into the text box."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from PIL import Image

from app.events import MAX_SEED, Handlers, View, sampling_of
from app.session import ChatSession
from models.errors import RequestError
from tests.app.helpers import scene
from tests.fakes import ScriptedModel

SETTINGS = (0.6, 0.9, 200, 1.0, "")
EMPTY: dict[str, Any] = {"text": "", "files": []}


@pytest.fixture
def model() -> ScriptedModel:
    return ScriptedModel()


@pytest.fixture
def handlers(model: ScriptedModel) -> Handlers:
    return Handlers(model)


@pytest.fixture
def session() -> ChatSession:
    return ChatSession()


@pytest.fixture
def pictures(tmp_path: Path) -> list[str]:
    paths = [tmp_path / name for name in ("one.png", "two.png")]
    for path in paths:
        scene().save(path)
    return [str(path) for path in paths]


def typed(text: str, *files: str) -> dict[str, Any]:
    return {"text": text, "files": list(files)}


def ask(handlers: Handlers, session: ChatSession, text: str, *files: str) -> list[View]:
    return list(handlers.ask(session, "", typed(text, *files), None, *SETTINGS))


def edit(handlers: Handlers, session: ChatSession, value: dict[str, Any]) -> View:
    return handlers.edit(session, value, gr.EventData(None, {"index": 0}))


def test_a_file_that_browsers_cannot_show_becomes_one_they_can(
    handlers: Handlers, session: ChatSession, pictures: list[str], tmp_path: Path
) -> None:
    assert handlers.attach(session, typed("", *pictures)).question == gr.skip()
    scene().save(tmp_path / "scan.tif")
    kept, shown = handlers.attach(session, typed("hi", pictures[0], str(tmp_path / "scan.tif"))).question["value"][
        "files"
    ]
    assert kept == pictures[0]
    with Image.open(shown) as image:
        assert (image.format, image.tobytes()) == ("PNG", scene().tobytes())


def test_a_question_to_a_conversation_that_the_server_has_forgotten_is_not_answered(
    handlers: Handlers, session: ChatSession, model: ScriptedModel
) -> None:
    key = ask(handlers, session, "what is it?")[0].key
    first, *_ = handlers.ask(session, key, typed("which colour?"), None, *SETTINGS)
    assert first.key == key
    other = ChatSession()
    (refused,) = handlers.ask(other, key, typed("and this?"), None, *SETTINGS)
    assert "forgotten this conversation" in refused.notice
    assert refused.question == gr.skip()
    assert len(model.seen) == 2
    assert handlers.reset(other).key == ""


def test_a_task_that_was_chosen_makes_a_notice_outdated(handlers: Handlers, session: ChatSession) -> None:
    view = handlers.choose_task(1, session, typed("[refer] dog"))
    assert (view.question["value"]["text"], view.notice) == ("[caption] dog", "")


def test_a_notice_goes_once_its_reason_has_gone(handlers: Handlers, session: ChatSession, pictures: list[str]) -> None:
    assert "add one first" in ask(handlers, session, "[refer] dog")[0].notice
    assert handlers.attach(session, typed("[refer] dog", pictures[0])).notice == ""
    assert "takes one image per question; 2 are attached" in handlers.attach(session, typed("", *pictures)).notice
    assert handlers.attach(session, typed("", pictures[1])).notice == ""


def test_a_refused_file_is_still_explained_when_the_page_tells_of_the_others(
    handlers: Handlers, session: ChatSession, pictures: list[str], tmp_path: Path
) -> None:
    (tmp_path / "bad.png").write_text("no picture")
    view = handlers.attach(session, typed("", pictures[0], str(tmp_path / "bad.png")))
    assert "bad.png is not an image" in view.notice
    assert view.question["value"]["files"] == pictures[:1]
    assert handlers.attach(session, view.question["value"]).notice == gr.skip()


def test_an_error_does_not_take_the_way_out_of_an_edit_away(handlers: Handlers, session: ChatSession) -> None:
    ask(handlers, session, "hello")
    assert "Editing question 1" in edit(handlers, session, EMPTY).notice
    notice = ask(handlers, session, " ")[0].notice
    assert "Type a question first" in notice
    assert 'data-action="cancel_edit"' in notice


@pytest.mark.parametrize("leave", ["retry", "undo", "reset", "cancel_edit"])
def test_what_was_typed_before_an_edit_comes_back_and_only_once(
    handlers: Handlers, session: ChatSession, leave: str
) -> None:
    ask(handlers, session, "hello")
    edit(handlers, session, typed("half a question"))
    view = {
        "retry": lambda: next(iter(handlers.retry(session, *SETTINGS))),
        "undo": lambda: handlers.undo(session, typed("hello")),
        "reset": lambda: handlers.reset(session),
        "cancel_edit": lambda: handlers.cancel_edit(session),
    }[leave]()
    assert view.question["value"] == typed("half a question")
    assert view.notice == ""
    session.stop()
    assert ask(handlers, session, "half a question")[0].question["value"] == EMPTY


def test_a_question_asked_too_early_is_not_refused_for_ever(
    model: ScriptedModel, handlers: Handlers, session: ChatSession
) -> None:
    running = handlers.ask(session, "", typed("one"), None, *SETTINGS)
    next(running)
    early = ask(handlers, session, "two")
    assert "still being written" in early[0].notice
    assert list(running)[-1].notice == ""
    assert [turn.text for turn in model.seen[-1]] == ["one"]
    assert ask(handlers, session, "two")[-1].notice == gr.skip()


@pytest.mark.parametrize("seed", ["a", "-1", "1.5", "²", str(MAX_SEED + 1), "9" * 5000])
def test_a_seed_that_can_not_be_used_is_refused_before_it_is_asked(seed: str) -> None:
    with pytest.raises(RequestError, match=f"whole number from 0 to {MAX_SEED}"):
        sampling_of(0.6, 0.9, 200, 1.0, seed)


def test_seeds() -> None:
    assert sampling_of(0.6, 0.9, 200, 1.0, f" {MAX_SEED} ").seed == MAX_SEED
    assert sampling_of(0.6, 0.9, 200, 1.0, " ").seed is None
