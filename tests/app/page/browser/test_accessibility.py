"""Every state of the page, light and dark, wide and narrow, without a serious finding of axe."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.app.helpers import Server
from tests.app.page.axe import serious_findings
from tests.app.page.browsing import ask, attach, done, drag, visit

pytestmark = pytest.mark.browser

GROUNDED = "Here are <p>a red circle</p> {<10><20><45><60>} and <p>squares</p> {<60><30><90><90>}<delim>{<1><1><9><9>}."


def check(page: Page, state: str) -> None:
    assert serious_findings(page) == [], state


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_no_state_has_serious_findings(server: Server, page: Page, scene_file: Path, theme: str) -> None:
    page.emulate_media(reduced_motion="reduce")
    visit(page, f"{server.url}?__theme={theme}")
    expect(page.locator(".mv-intro")).to_be_visible()
    check(page, "empty")
    server.model.script = [GROUNDED, "<p>a red circle</p> {<11><20><45><60>}"]
    attach(page, scene_file)
    check(page, "attached")
    for count in (1, 2):
        ask(page, "[grounding] describe this image in detail")
        done(page, count)
    check(page, "answered")
    page.get_by_role("button", name="Edit this question").first.click()
    expect(page.locator(".mv-edited")).to_be_visible()
    check(page, "edited")
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator(".mv-edited")).to_have_count(0)
    page.locator(".mv-compare select").select_option("0")
    page.locator('[data-stage="draw"]').click()
    drag(page, (0.3, 0.2), (0.6, 0.8))
    expect(page.locator(".mv-box-menu")).to_be_visible()
    check(page, "compared, with a box")
    page.keyboard.press("Escape")
    page.keyboard.press("Escape")
    page.locator(".mv-details summary").first.click()
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_be_visible()
    check(page, "shortcuts")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Settings", exact=True).click()
    expect(page.get_by_label("Seed")).to_be_in_viewport()
    check(page, "settings")


def test_nor_on_a_phone(server: Server, phone: Page, scene_file: Path) -> None:
    page = phone
    visit(page, server.url)
    expect(page.locator(".mv-intro")).to_be_visible()
    check(page, "empty")
    server.model.script = [GROUNDED]
    attach(page, scene_file)
    ask(page, "[grounding] describe this image in detail")
    done(page, 1)
    check(page, "strip")
    page.locator('[data-stage="full"]').tap()
    check(page, "full screen")
