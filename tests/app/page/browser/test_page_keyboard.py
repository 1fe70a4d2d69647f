"""The page without a mouse: where the focus goes, and what things are called."""

from __future__ import annotations

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.app.helpers import Server
from tests.app.page.browsing import answers, ask, done, question

pytestmark = pytest.mark.browser


def test_settings_open_and_close_by_buttons_with_names(quiet_page: Page) -> None:
    page = quiet_page
    opener = page.get_by_role("button", name="Settings", exact=True)
    closer = page.get_by_role("button", name="Close settings")
    expect(opener).to_have_attribute("aria-expanded", "false")
    expect(closer).to_be_hidden()
    opener.press("Enter")
    expect(page.get_by_role("region", name="Settings")).to_be_visible()
    expect(closer).to_be_focused()
    closer.press("Enter")
    expect(opener).to_be_focused()
    expect(opener).to_have_attribute("aria-expanded", "false")


def test_whoever_chose_a_task_or_changes_a_question_types_on(quiet_page: Page) -> None:
    page = quiet_page
    page.get_by_role("button", name="Refer", exact=True).press("Enter")
    expect(question(page)).to_have_value("[refer] ")
    page.keyboard.type("the dog")
    expect(question(page)).to_have_value("[refer] the dog")
    page.get_by_role("button", name="Identify", exact=True).click()
    expect(question(page)).to_have_value("[identify] the dog")
    expect(question(page)).not_to_be_focused()  # a box comes first
    ask(page, "hello")
    done(page, 1)
    for name in ("Retry", "Edit", "Undo"):
        page.get_by_role("button", name=name).click()
        expect(question(page)).to_be_focused()
    expect(question(page)).to_have_value("hello")


def test_details_unfold_into_view(server: Server, quiet_page: Page) -> None:
    page = quiet_page
    page.set_viewport_size({"width": 700, "height": 500})
    server.model.script = ["line\n" * 30]
    ask(page, "hello")
    done(page, 1)
    page.locator(".mv-details summary").press("Enter")
    expect(page.locator(".mv-facts")).to_be_in_viewport()
    page.wait_for_timeout(800)  # nothing that still had to be drawn or scrolled takes it out of view again
    expect(page.locator(".mv-facts")).to_be_in_viewport(timeout=1)


def test_a_button_says_that_it_has_copied(quiet_page: Page) -> None:
    page = quiet_page
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    ask(page, "hello")
    done(page, 1)
    copy = answers(page).get_by_role("button", name="Copy the answer")
    copy.click()
    expect(answers(page).get_by_role("button", name="Copied")).to_be_visible()
    expect(copy).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == "A red circle and a blue square."


def test_settings_have_a_button_on_a_phone(server: Server, browser: Browser) -> None:
    context = browser.new_context(viewport={"width": 375, "height": 667}, has_touch=True, is_mobile=True)
    page = context.new_page()
    page.goto(server.url)
    page.get_by_role("button", name="Settings", exact=True).tap()
    expect(page.get_by_label("Seed")).to_be_in_viewport()
    page.get_by_role("button", name="Close settings").tap()
    expect(page.get_by_label("Seed")).to_be_hidden()
    page.get_by_role("button", name="Refer", exact=True).tap()
    expect(question(page)).to_have_value("[refer] ")
    expect(question(page)).not_to_be_focused()  # the screen's keyboard would cover the page
    context.close()
