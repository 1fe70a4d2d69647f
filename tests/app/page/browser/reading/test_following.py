"""While an answer is being written, its end stays in view: for who watches, and not for who has gone elsewhere."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from tests.app.helpers import Server
from tests.app.page.browser.reading.scroller import (
    SCROLLER,
    below,
    over_the_chat,
    page_up_from_the_text_box,
    settled,
    top,
    wheel_up,
)
from tests.app.page.browsing import ask, attach, done, question
from tests.fakes import ScriptedModel

pytestmark = pytest.mark.browser

GROUNDED = "Here are <p>a red circle</p> {<10><20><45><60>} and <p>squares</p> {<60><30><90><90>}.\n"


def more(page: Page, model: ScriptedModel, pieces: int = 20) -> None:
    """The answer grows by so many lines, a few of them at a time, and all of them are shown."""
    assert model.gate is not None
    shown = page.locator(".mv-answer .mv-text").last
    before = (shown.text_content() or "").count("word") if shown.count() else 0
    for count in range(5, pieces + 1, 5):
        model.gate.release(5)
        page.wait_for_function(
            """count => {
                const shown = [...document.querySelectorAll(".mv-answer .mv-text")].at(-1);
                return shown?.textContent.split("word").length > count;
            }""",
            arg=before + count,
        )


def find(page: Page) -> None:
    """The browser's own search, for a word of the first question. A browser without a window does not show what it has
    found before that is extended."""
    page.evaluate("document.activeElement.blur()")
    assert page.evaluate("window.find('question 1', false, true, true)")
    page.keyboard.press("Shift+ArrowLeft")


def select_beyond_the_edge(page: Page) -> None:
    """A selection that is drawn upwards, over the upper edge of the conversation, until the first question is there."""
    box = page.locator(SCROLLER).bounding_box()
    assert box is not None
    before = top(page)
    page.mouse.move(box["x"] + 20, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + 16, box["y"] + box["height"] / 2 - 30, steps=3)  # over the words, and on
    page.mouse.move(box["x"] + 10, box["y"] - 20, steps=4)
    page.wait_for_function(f"document.querySelector('{SCROLLER}').scrollTop < {before - 200}")
    page.mouse.up()


def bring_into_view(page: Page) -> None:
    """As screen readers and other programs that read the page do."""
    page.locator(".mv-question").first.evaluate("node => node.scrollIntoView()")


GESTURES = (wheel_up, page_up_from_the_text_box, find, select_beyond_the_edge, bring_into_view)


def test_the_reader_goes_elsewhere_and_comes_back(server: Server, quiet_page: Page) -> None:
    page, model = quiet_page, server.model
    page.set_viewport_size({"width": 1280, "height": 720})
    model.default = "line\n" * 40
    ask(page, "question 1")
    done(page, 1)
    model.default, model.gate = "word\n" * 600, threading.Semaphore(0)
    ask(page, "a long answer")
    more(page, model)
    for gesture in GESTURES:
        before = settled(page)
        assert below(page) < 2, gesture.__name__  # the end is followed
        gesture(page)
        there = settled(page)
        assert there < before - 100, gesture.__name__
        more(page, model)
        assert settled(page) == there, gesture.__name__  # what is read stays where it is
        over_the_chat(page)
        page.mouse.wheel(0, 50_000)  # at the end again, it is followed again
        settled(page)
        assert below(page) < 2
        more(page, model)
    assert settled(page) > 0
    assert below(page) < 2
    model.open_gate()
    done(page, 2)


def test_who_watches_stays_at_the_end(server: Server, browser: Browser, scene_file: Path) -> None:
    """On a screen whose pixels are not those of the page: places are fractions there."""
    model = server.model
    with browser.new_context(viewport={"width": 1280, "height": 720}, device_scale_factor=1.25) as context:
        page = context.new_page()
        page.goto(server.url)
        attach(page, scene_file)
        model.default, model.gate = GROUNDED + "word\n\n" * 100 + "word " * 200, threading.Semaphore(12)
        ask(page, "a long answer")
        sizes = ((1280, 720), (1000, 560), (1440, 900), (800, 700), (390, 844), (700, 400), (1280, 720))
        for width, height in sizes:
            page.set_viewport_size({"width": width, "height": height})
            more(page, model, 30)
            question(page).press("Shift+Enter")  # the text box grows
            settled(page)
            assert below(page) < 2, (width, height)
        for media in ("print", "screen"):
            page.emulate_media(media=media)
            settled(page)
        more(page, model)
        settled(page)
        assert below(page) < 2
        model.open_gate()
        done(page, 1)
        settled(page)
        assert below(page) < 2
