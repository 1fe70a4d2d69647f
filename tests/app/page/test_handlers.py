"""The listeners, without a browser: what the page says and puts into the text box."""

from __future__ import annotations

import gc
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from PIL import Image

from app.chat.conversation_store import LEAST
from app.chat.pictures import STORE, PictureStore
from app.page.examples import PageExample
from app.page.handlers import Handlers
from app.page.page_state import PageState
from app.page.question.question_pictures import QuestionPictures
from app.page.view import View
from tests.app.helpers import encode, scene
from tests.app.page.sidebar import SETTINGS, typed
from tests.fakes import INFO, ScriptedModel

EMPTY: dict[str, Any] = {"text": "", "files": []}


@pytest.fixture
def model() -> ScriptedModel:
    return ScriptedModel()


@pytest.fixture
def handlers(model: ScriptedModel) -> Handlers:
    return Handlers(model)


@pytest.fixture
def page() -> PageState:
    return PageState()


@pytest.fixture
def pictures(tmp_path: Path) -> list[str]:
    paths = [tmp_path / name for name in ("one.png", "two.png")]
    for path in paths:
        scene().save(path)
    return [str(path) for path in paths]


def ask(handlers: Handlers, page: PageState, text: str, *files: str) -> list[View]:
    return list(handlers.ask(page, "", typed(text, *files), None, *SETTINGS))


def attach(handlers: Handlers, page: PageState, value: dict[str, Any]) -> View:
    return QuestionPictures(handlers).attach(page, value)


def edit(handlers: Handlers, page: PageState, value: dict[str, Any]) -> View:
    return handlers.edit(page, value, gr.EventData(None, {"index": 0}))


def test_a_file_that_browsers_cannot_show_becomes_one_they_can(
    handlers: Handlers, model: ScriptedModel, page: PageState, pictures: list[str], tmp_path: Path
) -> None:
    model.info = replace(INFO, max_images_per_turn=2)
    assert attach(handlers, page, typed("", *pictures)).files == gr.skip()
    scan = str(tmp_path / "scan.tif")
    scene().save(scan)
    changes = attach(handlers, page, typed("hi", pictures[0], scan)).files["renamed"]
    assert list(changes) == [scan]
    with Image.open(changes[scan]["path"]) as image:
        assert (image.format, image.tobytes()) == ("PNG", scene().tobytes())


@pytest.mark.parametrize("name", [".png", "..png", "noext", "photo.jpg_large"])
def test_a_picture_with_an_odd_name_gets_one_that_browsers_understand(
    handlers: Handlers, page: PageState, tmp_path: Path, name: str
) -> None:
    (tmp_path / name).write_bytes(encode(scene()))
    (file,) = attach(handlers, page, typed("", str(tmp_path / name))).files["renamed"].values()
    shown = file["path"]
    assert shown.endswith(".png")
    again = attach(handlers, page, typed("", shown))
    assert (again.files, again.notice) == (gr.skip(), gr.skip())  # it is settled
    ask(handlers, page, "what is it?", shown)
    assert page.session.exchanges[0].pictures[0].name == name


def test_more_pictures_than_the_model_takes_are_counted_before_they_are_decoded(
    handlers: Handlers, page: PageState, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [str(tmp_path / f"{number}.png") for number in range(12)]
    for number, path in enumerate(files):
        Path(path).write_bytes(encode(Image.new("L", (10 + number, 10))))
    monkeypatch.setattr(PictureStore, "open", lambda *_, **__: pytest.fail("decoded"))
    assert "takes one image per question; 12 are attached" in ask(handlers, page, "hello", *files)[0].notice
    (tmp_path / "notes.txt").write_text("no picture")
    view = attach(handlers, page, typed("", *files, str(tmp_path / "notes.txt")))
    assert "notes.txt is not an image" in view.notice
    assert view.files["renamed"] == {str(tmp_path / "notes.txt"): None}
    assert "takes one image per question; 12 are attached" in attach(handlers, page, typed("", *files)).notice


def test_a_question_to_a_conversation_that_the_server_has_forgotten_is_not_answered(
    handlers: Handlers, page: PageState, model: ScriptedModel
) -> None:
    key = ask(handlers, page, "what is it?")[0].key
    first, *_ = handlers.ask(page, key, typed("which colour?"), None, *SETTINGS)
    assert first.key == key
    restarted, other = Handlers(model), PageState()
    for unknown in (key, {"no": "key"}):
        (refused,) = restarted.ask(other, unknown, typed("and this?"), None, *SETTINGS)  # type: ignore[arg-type]
        assert "no longer kept by the server" in refused.notice
    assert refused.question == gr.skip()
    assert len(model.seen) == 2
    assert restarted.reset(other).key == ""


def test_a_conversation_that_only_gradio_has_forgotten_goes_on(
    handlers: Handlers, page: PageState, model: ScriptedModel
) -> None:
    key = ask(handlers, page, "what is it?")[0].key
    first, *_ = handlers.ask(PageState(), key, typed("which colour?"), None, *SETTINGS)
    assert (first.key, first.page) == (key, page)
    assert [turn.text for turn in model.seen[-1]] == ["what is it?", model.default, "which colour?"]


def test_a_page_that_is_opened_again_shows_what_it_showed_and_nothing_else(handlers: Handlers, page: PageState) -> None:
    key = ask(handlers, page, "what is it?")[0].key
    (view,) = handlers.resume(key)
    assert (view.page, view.key, len(view.chat["ids"])) == (page, key, 2)
    assert list(handlers.resume("")) == [View()]
    (lost,) = handlers.resume(key + "x")
    assert (lost.chat, lost.page, lost.key) == (gr.skip(), gr.skip(), "")
    assert "no longer kept by the server" in lost.notice
    handlers.reset(page)
    assert "no longer kept" in next(iter(handlers.resume(key))).notice


def test_what_the_page_holds_is_counted_by_content_and_forgotten(handlers: Handlers, pictures: list[str]) -> None:
    first, second = PageState(), PageState()
    for page in (first, second):
        ask(handlers, page, "what is it?", pictures[0])
    least = int(LEAST * handlers.store.max_bytes)
    assert handlers.store.num_bytes < 2 * least + 2 * 3 * 200 * 100  # the same picture
    handlers.reset(first)
    handlers.reset(second)
    assert handlers.store.num_bytes == 0


def test_a_notice_goes_once_its_reason_has_gone(handlers: Handlers, page: PageState, pictures: list[str]) -> None:
    assert "add one first" in ask(handlers, page, "[refer] dog")[0].notice
    assert attach(handlers, page, typed("[refer] dog", pictures[0])).notice == ""
    assert "takes one image per question; 2 are attached" in attach(handlers, page, typed("", *pictures)).notice
    assert attach(handlers, page, typed("", pictures[1])).notice == ""


def test_a_refused_file_is_still_explained_when_the_page_tells_of_the_others(
    handlers: Handlers, page: PageState, pictures: list[str], tmp_path: Path
) -> None:
    (tmp_path / "bad.png").write_text("no picture")
    view = attach(handlers, page, typed("", pictures[0], str(tmp_path / "bad.png")))
    assert "bad.png is not an image" in view.notice
    assert view.files["renamed"] == {str(tmp_path / "bad.png"): None}
    assert attach(handlers, page, typed("", pictures[0])).notice == gr.skip()


def test_an_error_does_not_take_the_way_out_of_an_edit_away(handlers: Handlers, page: PageState) -> None:
    ask(handlers, page, "hello")
    assert "Editing question 1" in edit(handlers, page, EMPTY).notice
    notice = ask(handlers, page, " ")[0].notice
    assert "Type a question first" in notice
    assert 'data-action="cancel_edit"' in notice


@pytest.mark.parametrize("leave", ["retry", "undo", "reset", "cancel_edit"])
def test_what_was_typed_before_an_edit_comes_back_and_only_once(
    handlers: Handlers, page: PageState, leave: str
) -> None:
    ask(handlers, page, "hello")
    edit(handlers, page, typed("half a question"))
    view = {
        "retry": lambda: next(iter(handlers.retry(page, *SETTINGS))),
        "undo": lambda: handlers.undo(page, typed("hello")),
        "reset": lambda: handlers.reset(page),
        "cancel_edit": lambda: handlers.cancel_edit(page),
    }[leave]()
    assert view.question["value"] == typed("half a question")
    assert view.notice == ""
    page.stop()
    accepted = ask(handlers, page, "half a question")[0]
    assert accepted.taken["text"] == "half a question"
    assert "value" not in accepted.question


def test_a_question_asked_too_early_is_not_refused_for_ever(
    model: ScriptedModel, handlers: Handlers, page: PageState
) -> None:
    model.gate = threading.Semaphore(0)
    running = handlers.ask(page, "", typed("one"), None, *SETTINGS)
    next(running)
    early = ask(handlers, page, "two")
    assert "still being written" in early[0].notice
    model.open_gate()
    assert list(running)[-1].notice == ""
    assert [turn.text for turn in model.seen[-1]] == ["one"]
    assert ask(handlers, page, "two")[-1].notice == gr.skip()


def test_an_edited_question_shows_its_box_on_its_picture(
    handlers: Handlers, page: PageState, pictures: list[str]
) -> None:
    ask(handlers, page, "[identify] what is this {<10><20><30><40>}", pictures[0])
    picture = page.picture
    assert picture is not None
    view = edit(handlers, page, EMPTY)
    assert view.question["value"]["text"] == "[identify] what is this "
    assert (view.tool["current"], view.tool["box"]) == (picture.key, [10, 20, 30, 40])
    assert handlers.cancel_edit(page).tool["box"] is None
    assert handlers.undo(page, EMPTY).tool["box"] == [10, 20, 30, 40]


def test_a_part_of_a_picture_becomes_the_next_picture(handlers: Handlers, page: PageState, pictures: list[str]) -> None:
    attach(handlers, page, typed("", pictures[0]))
    (picture,) = page.attached.values()

    def crop(key: str, box: Any) -> View:
        return QuestionPictures(handlers).crop(page, gr.EventData(None, {"key": key, "box": box}))

    (part,) = crop(picture.key, [10, 20, 45, 60]).files["replaced"]
    with Image.open(part["path"]) as image:
        assert image.size == (70, 40)
    for key, box in (("another", [10, 20, 45, 60]), (picture.key, None), (picture.key, [1, 2])):
        assert crop(key, box) == View()


def test_an_example_is_asked_at_once_and_keeps_what_was_typed(
    model: ScriptedModel, page: PageState, pictures: list[str]
) -> None:
    handlers = Handlers(model, examples=lambda _: [PageExample(Path(pictures[0]), "[detection] red circle")])
    event = gr.EventData(None, {"index": 0})
    views = list(handlers.example(page, "", None, event, *SETTINGS))
    assert model.last_question() == "[detection] red circle"
    assert len(model.seen[-1][-1].images) == 1
    assert "value" not in views[0].question
    assert views[0].taken == gr.skip()


def test_a_new_chat_with_this_picture_keeps_it_and_what_was_typed(
    handlers: Handlers, page: PageState, pictures: list[str]
) -> None:
    ask(handlers, page, "what is it?", pictures[0])
    ask(handlers, page, "and its colour?")
    view = QuestionPictures(handlers).new_with_picture(page)
    assert page.session.exchanges == view.chat["ids"] == []
    assert [file["path"] for file in view.files["replaced"]] == pictures[:1]
    assert "value" not in view.question
    assert ask(handlers, page, "what is it?", pictures[0])[-1].chat


def test_a_question_without_an_image_offers_to_add_one(
    handlers: Handlers, model: ScriptedModel, page: PageState
) -> None:
    model.info = replace(INFO, one_image_per_chat=True)
    refused = ask(handlers, page, "what is in the image?")[0]
    assert 'data-action="add_image"' in refused.notice
    assert model.seen == []
    model.info = INFO
    assert "Asked without an image" in str(ask(handlers, page, "what is in the image?")[-1].chat)


def test_a_new_chat_lets_its_pictures_go(handlers: Handlers, page: PageState, pictures: list[str]) -> None:
    before = STORE.num_bytes
    Image.new("RGB", (3000, 2000), "teal").save(pictures[0])
    attach(handlers, page, typed("", pictures[0]))
    for _ in range(3):
        ask(handlers, page, "what is it?", pictures[0])
    assert 24e6 < STORE.num_bytes - before < 25e6  # one picture, four bytes a pixel, however often it is asked about
    attach(handlers, page, EMPTY)
    handlers.reset(page)
    gc.collect()
    assert STORE.num_bytes <= before
