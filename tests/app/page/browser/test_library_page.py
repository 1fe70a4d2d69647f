"""Choosing another model in the page's header, with the keyboard, while a conversation goes on."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from app.chat.feedback import FeedbackFile
from app.library.library import ModelLibrary
from app.page.components import build_demo
from models.conversation import Sampling
from tests.app.library.fake_loader import FakeLoader, offer, scripted
from tests.app.page.browsing import answers, ask, done, question, visit
from tests.fakes import INFO, TASKS
from tests.waiting import free_port

pytestmark = [pytest.mark.browser, pytest.mark.usefixtures("no_stray_event_loops")]

PLAIN = replace(
    INFO, name="Plain", tasks=TASKS[:2], is_toy=False, sampling=Sampling(max_new_tokens=77), context_tokens=90
)


def test_another_model_goes_on_with_the_conversation(page: Page, tmp_path: Path) -> None:
    loader = FakeLoader(gate=threading.Semaphore(4), infos={"plain": PLAIN})
    offers = [offer("first"), offer("plain"), offer("huge", 900), offer("away", problem="Not here: x. Fetch: y")]
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    with ModelLibrary(offers, loader) as library:
        library.load("first")
        demo = build_demo(library.model("first"), library=library, feedback=FeedbackFile(tmp_path / "kept.jsonl"))
        _, url, _ = demo.launch(prevent_thread_lock=True, quiet=True, server_port=free_port())
        try:
            visit(page, url)
            ask(page, "who are you?")
            done(page, 1)
            question(page).fill("typed before")
            choose_by_keyboard(page, loader)
            it_is_plain(page)
            ask(page, "and you?")
            done(page, 2)
            assert [turn.text for turn in scripted(library, "plain").seen[-1]][::2] == ["who are you?", "and you?"]
            expect(answers(page).locator(".mv-by")).to_have_text(["First", "Plain"])
            page.get_by_role("button", name="Bad answer").last.click()
            expect(page.get_by_role("button", name="Bad answer").last).to_have_attribute("aria-pressed", "true")
            kept = json.loads((tmp_path / "kept.jsonl").read_text())
            assert (kept["rating"], kept["model"], kept["questions"]) == ("down", "Plain", ["who are you?", "and you?"])
            page.reload()
            done(page, 2)
            it_is_plain(page)
            what_cannot_be_chosen(page)
            page.locator(".mv-picker > summary").click()
            page.locator('[data-model="first"]').click()
            expect(page.locator(".mv-model")).to_have_text("First")
            expect(page.locator("#mv-task-6")).to_be_visible()
            expect(page.get_by_label("Max new tokens").first).to_have_value("200")
        finally:
            demo.close(verbose=False)
    assert errors == []


def choose_by_keyboard(page: Page, loader: FakeLoader) -> None:
    """Loading is seen; the text box keeps what was typed, and the focus comes back to the header."""
    assert loader.gate is not None
    page.locator(".mv-picker > summary").focus()
    page.keyboard.press("Enter")
    expect(page.locator('[data-model="plain"]')).to_contain_text("here")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    loader.gate.release(2)
    row = page.locator('.mv-library-row[data-state="loading"]')
    expect(row).to_contain_text("loading 50 % (5 MiB of 10 MiB)")
    assert row.locator("progress").evaluate("bar => bar.value") == 0.5
    loader.gate.release(2)
    expect(page.locator(".mv-models")).to_be_hidden()
    expect(page.locator(".mv-picker > summary")).to_be_focused()
    expect(question(page)).to_have_value("typed before")


def it_is_plain(page: Page) -> None:
    """Everything that depends on the model is that of `PLAIN`."""
    expect(page.locator(".mv-model")).to_have_text("Plain")
    expect(page.locator("#mv-task-1")).to_be_visible()
    expect(page.locator("#mv-task-0")).to_have_attribute("aria-pressed", "true")
    expect(page.locator("#mv-task-2")).to_have_count(0)
    expect(page.locator("#mv-toy")).to_be_hidden()
    tokens = page.get_by_label("Max new tokens").first
    expect(tokens).to_have_value("77")
    expect(tokens).to_have_attribute("max", "90")
    expect(page.locator(".mv-facts-list")).to_contain_text("Plain")


def what_cannot_be_chosen(page: Page) -> None:
    """One line each, on a phone; Escape closes the picker."""
    page.set_viewport_size({"width": 390, "height": 844})
    page.locator(".mv-picker > summary").click()
    page.locator('[data-model="huge"]').click()
    expect(page.locator("#mv-notice")).to_contain_text("Huge does not fit: it needs about 900 MiB on cpu")
    page.locator(".mv-library-away > summary").click()
    expect(page.locator(".mv-library-away")).to_contain_text("Not here: x. Fetch: y")
    box = page.locator(".mv-models").bounding_box()
    assert box is not None
    assert (box["x"] >= 0, box["x"] + box["width"] <= 390) == (True, True)
    page.keyboard.press("Escape")
    expect(page.locator(".mv-models")).to_be_hidden()
    page.set_viewport_size({"width": 1280, "height": 900})
