"""The listeners of the chat's menu, without a browser."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from app.chat.conversation_store import ConversationStore
from app.page.chat_files import ChatFiles
from app.page.handlers import Handlers
from app.page.page_state import PageState
from tests.app.page.sidebar import SETTINGS
from tests.fakes import ScriptedModel


@pytest.fixture
def model() -> ScriptedModel:
    return ScriptedModel()


@pytest.fixture
def page(model: ScriptedModel) -> PageState:
    page = PageState()
    list(Handlers(model).ask(page, "", {"text": "what is it?", "files": []}, None, *SETTINGS))
    return page


@pytest.mark.parametrize("kind", ["html", "json"])
def test_a_chat_is_saved(model: ScriptedModel, page: PageState, kind: str) -> None:
    files = ChatFiles(Handlers(model))
    file, notice = files.save_html(page) if kind == "html" else files.save_json(page)
    saved = json.loads(file)
    assert saved["name"] == f"chat_scripted-model_what-is-it.{kind}"
    assert model.default in saved["text"]
    assert notice == ""


def test_a_chat_that_would_make_too_large_a_page_is_one_line(
    model: ScriptedModel, page: PageState, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thousand questions about one picture of 200 KB made 200 MB of one file of 1 MB, for each who pressed Save."""
    monkeypatch.setattr("app.page.saved_page.MOST_CHARACTERS", 100)
    file, notice = ChatFiles(Handlers(model)).save_html(page)
    assert file == ""
    assert "too large for a page" in notice


def test_nothing_and_half_an_answer_are_not_saved(model: ScriptedModel) -> None:
    page = PageState()
    assert "nothing to save yet" in ChatFiles(Handlers(model)).save_html(page)[1]
    model.gate = threading.Semaphore(0)
    running = Handlers(model).ask(page, "", {"text": "what is it?", "files": []}, None, *SETTINGS)
    next(running)
    file, notice = ChatFiles(Handlers(model)).save_json(page)
    assert file == ""
    assert "still being written" in notice
    assert "still being written" in ChatFiles(Handlers(model)).open(page, "chat.json").notice
    model.open_gate()
    list(running)


def test_a_saved_chat_is_opened_in_place_of_the_one_that_is_there(
    model: ScriptedModel, page: PageState, tmp_path: Path
) -> None:
    path = tmp_path / "mine.json"
    saved = json.loads(ChatFiles(Handlers(model)).save_json(page)[0])["text"]
    path.write_text(saved.replace(f'"{model.info.name}"', f'"{"long " * 400}"'), encoding="utf-8")
    other = PageState()
    list(Handlers(model).ask(other, "", {"text": "something else", "files": []}, None, *SETTINGS))
    store = ConversationStore[PageState]()
    store.keep("old", other)
    other.session.key = "old"
    view = ChatFiles(Handlers(model, store=store)).open(other, str(path))
    assert (store.get("old"), store.get(view.key)) == (None, other)  # a reload shows it again
    assert [one.question for one in other.session.exchanges] == ["what is it?"]
    assert "Opened mine.json: 1 question. Answered by long long" in view.notice
    assert len(view.notice) < 300
    assert len(view.chat["ids"]) == 2
    assert view.key == other.session.key != page.session.key


def test_a_bad_file_changes_nothing(model: ScriptedModel, page: PageState, tmp_path: Path) -> None:
    path = tmp_path / "<b>.json"
    path.write_text("{}", encoding="utf-8")
    key = page.session.key
    for name in (path, tmp_path / "gone.json"):
        view = ChatFiles(Handlers(model)).open(page, str(name))
        assert 'role="alert"' in view.notice
        assert "<b>" not in view.notice
    assert (len(page.session.exchanges), page.session.key) == (1, key)


def test_a_file_that_would_be_more_than_the_page_shows_changes_nothing(
    model: ScriptedModel, page: PageState, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """4 MiB of boxes became 70 MB of HTML, which was kept, and sent to every tab."""
    files = ChatFiles(Handlers(model))
    data = json.loads(json.loads(files.save_json(page)[0])["text"])
    data["exchanges"][0]["answer"]["text"] = "{<1><1><2><2>}" * 300
    path = tmp_path / "boxes.json"
    path.write_text(json.dumps(data), encoding="utf-8")
    other = PageState()
    monkeypatch.setattr("app.page.chat_files.MOST_SHOWN", 100_000)
    view = files.open(other, str(path))
    assert "its texts and boxes are more than the page shows." in view.notice
    assert other.session.exchanges == []
    monkeypatch.setattr("app.page.chat_files.MOST_SHOWN", 200_000)
    assert len(files.open(other, str(path)).chat["ids"]) == 2
    assert sum(other.sizes().values()) > 100_000  # what is kept of the drawing counts as the conversation's memory
