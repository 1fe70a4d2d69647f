"""People go on typing, and send, while the server still works at what they did before."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from app.page.handlers import Handlers
from app.page.question.attachments import Attachments
from app.page.question.question_pictures import QuestionPictures
from tests.app.helpers import Server, encode, scene
from tests.app.page.browsing import answers, ask, attach, done, drag, question

pytestmark = pytest.mark.browser


@contextmanager
def late(monkeypatch: pytest.MonkeyPatch, owner: type, name: str) -> Iterator[threading.Event]:
    """What this method gives is held back until the event is set, or the block ends. The listeners themselves are
    known to gradio already: it is something that they call."""
    gate = threading.Event()
    method = getattr(owner, name)

    def held(*arguments: Any) -> Any:
        result = method(*arguments)
        assert gate.wait(120)
        return result

    monkeypatch.setattr(owner, name, held)
    try:
        yield gate
    finally:
        gate.set()


def test_files_that_are_read_late_do_not_come_back_into_the_box(
    server: Server, quiet_page: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A picture whose file becomes another one, as iPhones' do, is sent before the server has said so."""
    page, thumbnails = quiet_page, quiet_page.locator("#mv-question .thumbnail-item")
    (tmp_path / "noext").write_bytes(encode(scene()))
    with late(monkeypatch, Attachments, "take") as gate:
        attach(page, tmp_path / "noext")
        ask(page, "what is it?")
        done(page, 1)
        expect(thumbnails).to_have_count(0)
        question(page).fill("and its colour?")
        with page.expect_response("**/run/predict"):
            gate.set()
    page.wait_for_timeout(500)
    expect(thumbnails).to_have_count(0)
    expect(question(page)).to_have_value("and its colour?")
    question(page).press("Enter")
    done(page, 2)
    assert [len(turn.images) for turn in server.model.seen[-1]] == [1, 0, 0]


def test_files_that_became_others_are_sent_with_their_question(
    server: Server, quiet_page: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other way round: the files are read while the question is on its way."""
    page = quiet_page
    (tmp_path / "noext").write_bytes(encode(scene()))
    server.model.script, server.model.gate = ["yes"], threading.Semaphore(0)
    with late(monkeypatch, Attachments, "take") as read, late(monkeypatch, Handlers, "page_shown") as accepted:
        attach(page, tmp_path / "noext")
        ask(page, "what is it?")
        expect(page.locator(".mv-pending")).to_be_visible()
        read.set()
        expect(page.locator('#mv-question .thumbnail-item img[src*="image-"]')).to_have_count(1)
        accepted.set()
        expect(page.locator("#mv-question .thumbnail-item")).to_have_count(0)
    server.model.open_gate()
    done(page, 1)
    expect(question(page)).to_have_value("")


def test_what_is_typed_before_a_question_is_accepted_stays(
    server: Server, quiet_page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = quiet_page
    with late(monkeypatch, Handlers, "page_shown") as accepted:
        ask(page, "what is it?")
        expect(page.locator(".mv-pending")).to_be_visible()
        page.keyboard.type(" And its colour?")
        accepted.set()
        done(page, 1)
    expect(question(page)).to_have_value("And its colour?")
    expect(answers(page)).to_have_count(1)
    assert server.model.last_question() == "what is it?"


def test_what_is_typed_while_a_scene_is_drawn_stays(
    server: Server, quiet_page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = quiet_page
    question(page).fill("what")
    with late(monkeypatch, QuestionPictures, "_attached") as drawn:
        page.get_by_role("button", name="New scene").click()
        question(page).press("End")
        page.keyboard.type(" is it?")
        drawn.set()
        expect(page.locator("#mv-question .thumbnail-item")).to_have_count(1)
    expect(question(page)).to_have_value("what is it?")
    question(page).press("Enter")
    done(page, 1)
    assert server.model.last_question() == "what is it?"


def test_a_box_that_is_drawn_before_a_question_is_accepted_stays(
    server: Server, quiet_page: Page, scene_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = quiet_page
    attach(page, scene_file)
    page.get_by_role("button", name="Box: Draw a box").click()
    drag(page, (0.105, 0.205), (0.455, 0.605))
    question(page).fill("[identify] what is this")
    with late(monkeypatch, Handlers, "page_shown") as accepted:
        question(page).press("Enter")
        expect(page.locator(".mv-pending")).to_be_visible()
        drag(page, (0.955, 0.955), (0.805, 0.705))
        accepted.set()
        done(page, 1)
    ask(page, "[identify] and this")
    done(page, 2)
    asked = [turn.text for turn in server.model.seen[-1] if turn.role == "user"]
    assert asked == ["[identify] what is this {<10><20><45><60>}", "[identify] and this {<80><70><95><95>}"]
    expect(page.get_by_label("Left")).to_have_value("")
