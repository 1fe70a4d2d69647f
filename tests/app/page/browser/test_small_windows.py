"""Phones and magnified windows: everything can be reached, and there is room for the conversation."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.app.helpers import Server
from tests.app.page.browsing import ask, attach, done, question, visit

pytestmark = pytest.mark.browser

CHAT = "#mv-chat .mv-scroller"


def visible_height(page: Page, selector: str) -> float:
    """How much of an element is inside the window, in pixels."""
    box = page.locator(selector).bounding_box()
    assert box is not None
    height = page.evaluate("innerHeight")
    return float(max(0, min(box["y"] + box["height"], height) - max(box["y"], 0)))


def test_every_button_of_a_phone_can_be_seen_and_hit(server: Server, phone: Page) -> None:
    visit(phone, server.url)
    expect(question(phone)).to_be_visible()
    for chip in phone.locator(".mv-chip:visible").all():
        box = chip.bounding_box()
        assert box is not None
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 390
        assert box["height"] >= 44
    for name in ("Settings", "Switch light and dark"):
        box = phone.get_by_role("button", name=name, exact=True).bounding_box()
        assert box is not None
        assert min(box["width"], box["height"]) >= 44
    assert phone.evaluate("document.documentElement.scrollWidth") <= 390


def test_a_wide_table_scrolls_before_its_words_are_cut(server: Server, phone: Page) -> None:
    visit(phone, server.url)
    head = "| Thing | Colour | Where it is in the picture | What is next to it on the left | Remarks |\n"
    server.model.script = [f"{head}|---|---|---|---|---|\n| ring | cyan | middle | a star | the largest |"]
    ask(phone, "make a table")
    done(phone, 1)
    table = phone.locator(".mv-table")
    assert table.evaluate("table => table.scrollWidth > table.clientWidth")
    lines = """cell => {
        const range = document.createRange();
        range.selectNodeContents(cell);
        return range.getClientRects().length;
    }"""
    assert phone.locator(".mv-table th").first.evaluate(lines) == 1
    assert phone.evaluate("document.documentElement.scrollWidth") <= 390
    phone.emulate_media(media="print")  # where nothing scrolls
    assert phone.locator(".mv-table th").first.evaluate(lines) == 1


@pytest.mark.parametrize("size", [(320, 256), (390, 420)])
def test_a_magnified_window_has_room_for_a_chat(
    server: Server, phone: Page, scene_file: Path, size: tuple[int, int]
) -> None:
    page, (width, height) = phone, size
    page.set_viewport_size({"width": width, "height": height})
    visit(page, server.url)
    server.model.default = "line\n" * 15
    attach(page, scene_file)
    for count in (1, 2):
        ask(page, f"question {count}")
        done(page, count)
    question(page).fill("a long question " * 10)
    page.wait_for_timeout(500)
    assert visible_height(page, CHAT) > 0.36 * height
    expect(page.locator(".mv-answer").last.get_by_role("button", name="Retry")).to_be_in_viewport()
    expect(question(page)).to_be_in_viewport()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    box = page.locator(CHAT).bounding_box()
    assert box is not None
    opener = page.get_by_role("button", name="Open: Full screen").bounding_box()
    assert opener is not None
    assert opener["y"] + opener["height"] <= box["y"]  # the picture is opened from beside the conversation
    page.mouse.move(box["x"] + 40, box["y"] + 40)
    page.mouse.wheel(0, -3000)
    expect(page.locator(".mv-question").first).to_be_in_viewport()
    page.get_by_role("button", name="Settings", exact=True).click()
    expect(page.get_by_label("Seed")).to_be_visible()


def test_what_means_nothing_at_temperature_0_can_not_be_set(quiet_page: Page) -> None:
    page = quiet_page
    page.get_by_role("button", name="Settings", exact=True).click()
    top_p = page.get_by_label("number input for Top-p")
    expect(top_p).to_be_enabled()
    page.get_by_label("number input for Temperature").fill("0")
    page.get_by_label("number input for Temperature").press("Tab")
    expect(top_p).to_be_disabled()
    expect(page.get_by_label("Seed")).to_be_disabled()
    page.get_by_label("number input for Temperature").fill("0.5")
    page.get_by_label("number input for Temperature").press("Tab")
    expect(top_p).to_be_enabled()
    expect(page.get_by_label("Seed")).to_be_editable()


def test_the_chosen_task_differs_in_forced_colours(server: Server, page: Page) -> None:
    page.emulate_media(forced_colors="active")
    visit(page, server.url)
    chosen, other = (page.get_by_role("button", name=name, exact=True).element_handle() for name in ("Chat", "Refer"))
    # The script marks the chosen one once the page is there, and colours change softly.
    page.wait_for_function(
        "([a, b]) => getComputedStyle(a).backgroundColor !== getComputedStyle(b).backgroundColor", arg=[chosen, other]
    )
