"""Reading a long conversation: with a wheel, keys, a finger, the scrollbar."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

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
from tests.app.page.browsing import ask, done, question

pytestmark = pytest.mark.browser


def page_up(page: Page) -> None:
    page.locator(".mv-answer").last.get_by_role("button", name="Copy").focus()
    page.keyboard.press("PageUp")


def home(page: Page) -> None:
    page.locator(".mv-answer").last.get_by_role("button", name="Copy").focus()
    page.keyboard.press("Home")


def focus_something_earlier(page: Page) -> None:
    for _ in range(40):  # backwards from the text box, to the first buttons of the conversation
        page.keyboard.press("Shift+Tab")
        if page.evaluate("document.activeElement.closest('.mv-question')?.ariaLabel") == "Question 1":
            return
    raise AssertionError("the first question can't be reached by keyboard")


def turn_the_wheel_over_the_button_that_leads_down(page: Page) -> None:
    wheel_up(page)
    page.locator("#mv-chat .mv-to-end").hover()
    before = settled(page)
    page.mouse.wheel(0, -200)
    assert settled(page) < before - 100


@pytest.fixture
def long_page(server: Server, quiet_page: Page) -> Page:
    """Four answers of 15 lines in a window that shows about one of them."""
    page = quiet_page
    page.set_viewport_size({"width": 1280, "height": 720})
    server.model.default = "line\n" * 15
    for count in range(1, 5):
        ask(page, f"question {count}")
        done(page, count)
    settled(page)
    assert below(page) < 2
    assert top(page) > 600
    return page


def test_the_reader_can_go_up_while_nothing_happens(long_page: Page) -> None:
    gestures = (wheel_up, page_up, page_up_from_the_text_box, home, focus_something_earlier)
    for gesture in (*gestures, turn_the_wheel_over_the_button_that_leads_down):
        over_the_chat(long_page)
        long_page.mouse.wheel(0, 50_000)
        question(long_page).focus()
        before = settled(long_page)
        assert below(long_page) < 2
        gesture(long_page)
        assert settled(long_page) < before - 100, gesture.__name__
    expect(long_page.locator(":focus")).to_be_in_viewport()


def test_a_question_brings_the_reader_back_to_the_end(server: Server, long_page: Page) -> None:
    wheel_up(long_page)
    settled(long_page)
    ask(long_page, "another question")
    done(long_page, 5)
    settled(long_page)
    assert below(long_page) < 2
    expect(long_page.locator(".mv-answer").last).to_be_in_viewport()


def test_dragging_the_scrollbar(server: Server, browser: Browser, chromium: Path) -> None:
    visible = browser.browser_type.launch(
        executable_path=str(chromium), args=["--no-sandbox"], ignore_default_args=["--hide-scrollbars"]
    )
    with visible:
        page = visible.new_page(viewport={"width": 1280, "height": 720})
        page.goto(server.url)
        model = server.model
        model.default, model.gate = "line\n" * 200, threading.Semaphore(100)
        ask(page, "hello")
        page.wait_for_function(f"document.querySelector('{SCROLLER}').scrollHeight > 2400")
        before = settled(page)
        assert below(page) < 2
        box = page.locator(SCROLLER).bounding_box()
        assert box is not None
        right, bottom = box["x"] + box["width"], box["y"] + box["height"]
        page.mouse.move(right - 5, bottom - 40)
        page.mouse.down()
        for step in range(1, 7):  # while the answer goes on
            page.mouse.move(right - 5, bottom - 40 - step * 10)
            model.gate.release(2)
        page.mouse.up()
        there = settled(page)
        assert there < before - 100
        model.open_gate()
        done(page, 1)
        assert settled(page) == there


def drag_down(page: Page, x: float, y: float) -> None:
    """A finger that begins there moves down by some 300 pixels."""
    touch = page.context.new_cdp_session(page)
    touch.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [{"x": x, "y": y}]})
    for step in range(15):
        touch.send("Input.dispatchTouchEvent", {"type": "touchMove", "touchPoints": [{"x": x, "y": y + 20 * step}]})
    touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})


def test_a_finger_drags_the_conversation(server: Server, phone: Page) -> None:
    page = phone
    page.goto(server.url)
    server.model.default = "line\n" * 80
    ask(page, "hello")
    done(page, 1)
    before = settled(page)
    drag_down(page, 200, 250)
    there = settled(page)
    assert there < before - 150
    box = page.locator("#mv-chat .mv-to-end").bounding_box()
    assert box is not None
    drag_down(page, box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    assert settled(page) < there - 150


def test_the_button_that_leads_down_can_be_seen_and_does(long_page: Page) -> None:
    page = long_page
    over_the_chat(page)
    page.mouse.wheel(0, -3000)
    assert settled(page) == 0
    down = page.locator("#mv-chat .mv-to-end")
    assert down.evaluate("node => getComputedStyle(node).backgroundColor") == "rgb(255, 255, 255)"
    down.click()
    settled(page)
    assert below(page) < 2
