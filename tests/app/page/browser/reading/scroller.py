"""Where the conversation is scrolled to, and what a reader does to it."""

from __future__ import annotations

from playwright.sync_api import Page

from tests.app.page.browsing import question

SCROLLER = "#mv-chat .mv-scroller"


def top(page: Page) -> float:
    return float(page.eval_on_selector(SCROLLER, "node => node.scrollTop"))


def below(page: Page) -> float:
    """How much there is below what can be seen."""
    return float(page.eval_on_selector(SCROLLER, "node => node.scrollHeight - node.clientHeight - node.scrollTop"))


def settled(page: Page) -> float:
    """Where the view comes to rest: a smooth scroll, and whoever would move it again, takes some frames."""
    last = -1.0
    while last != (now := top(page)):
        last = now
        page.wait_for_timeout(400)
    return now


def over_the_chat(page: Page) -> None:
    box = page.locator(SCROLLER).bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)


def wheel_up(page: Page) -> None:
    over_the_chat(page)
    page.mouse.wheel(0, -300)


def page_up_from_the_text_box(page: Page) -> None:
    question(page).focus()
    page.keyboard.press("PageUp")
