"""What is around the picture: the box's menu and fields, counts, comparison, tabs, switches, shortcuts, the strip."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from tests.app.helpers import Serve, Server
from tests.app.page.browsing import answers, ask, attach, converse, done, drag, on_picture, pinch, question, visit
from tests.fakes import INFO, TRACE, ScriptedModel

pytestmark = pytest.mark.browser

DETECTED = (
    "<p>circle</p> {<10><20><45><60>}<delim>{<50><10><58><30>}<delim>{<70><5><80><20>} <p>star</p> {<60><40><90><90>}"
)
AGAIN = "<p>circle</p> {<10><20><45><61>}<delim>{<0><80><8><99>} <p>dog</p> {<60><40><90><90>}"


def detect(page: Page, server: Server, scene_file: Path, *script: str) -> None:
    converse(page, server, scene_file, "[detection] circles", *script)


def draw(page: Page) -> None:
    page.get_by_role("button", name="Box: Draw a box").click()
    drag(page, (0.105, 0.205), (0.455, 0.605))


def test_a_box_drawn_at_any_time_is_identified_and_the_draft_comes_back(
    server: Server, quiet_page: Page, scene_file: Path
) -> None:
    page = quiet_page
    attach(page, scene_file)
    question(page).fill("half a thou")
    draw(page)
    page.locator(".mv-box-menu").get_by_role("button", name="Identify this").click()
    done(page, 1)
    assert server.model.last_question() == "[identify] what is this {<10><20><45><60>}"
    expect(question(page)).to_have_value("half a thou")
    expect(page.locator(".mv-box-menu")).to_be_hidden()


def test_a_part_is_asked_about_referred_to_and_copied(server: Server, quiet_page: Page, scene_file: Path) -> None:
    page = quiet_page
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    attach(page, scene_file)
    question(page).fill("what is left of")
    draw(page)
    menu = page.locator(".mv-box-menu")
    menu.get_by_role("button", name="Copy its numbers").click()
    expect(menu.get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == "{<10><20><45><60>}"
    menu.get_by_role("button", name="Refer to it").click()
    expect(question(page)).to_have_value("what is left of {<10><20><45><60>}")
    expect(question(page)).to_be_focused()
    whole = page.locator(".mv-pixels").get_attribute("data-key") or ""
    menu.get_by_role("button", name="Ask about this part").click()
    expect(page.locator(".mv-pixels")).not_to_have_attribute("data-key", whole)  # the part is on the stage
    ask(page, "what is it?")
    done(page, 1)
    assert server.model.seen[-1][-1].images[0].size == (70, 40)


def test_the_keyboard_draws_with_four_fields_and_sends(server: Server, quiet_page: Page, scene_file: Path) -> None:
    page = quiet_page
    attach(page, scene_file)
    page.get_by_role("button", name="Identify", exact=True).press("Enter")
    expect(page.get_by_label("Left", exact=True)).to_be_focused()
    for number in ("10", "20", "45", "60"):
        page.keyboard.type(number)
        page.keyboard.press("Tab")
    expect(page.locator(".mv-box-text")).to_have_text("Box {<10><20><45><60>}")
    expect(page.locator(".mv-box-menu").get_by_role("button", name="Identify this")).to_be_focused()
    page.keyboard.press("Shift+Tab")
    expect(page.get_by_label("Bottom")).to_be_focused()
    for _ in range(1 + page.locator(".mv-box-menu button").count()):
        page.keyboard.press("Tab")  # through the menu, and on
    expect(page.get_by_role("button", name="Clear box")).to_be_focused()
    page.get_by_label("Bottom").press("Enter")
    done(page, 1)
    assert server.model.last_question() == "[identify] what is this {<10><20><45><60>}"
    page.get_by_role("button", name="Edit this question").click()
    expect(question(page)).to_have_value("[identify] what is this ")
    expect(page.locator(".mv-box-text")).to_have_text("Box {<10><20><45><60>}")


def test_a_box_makes_its_refusal_outdated(quiet_page: Page, scene_file: Path) -> None:
    page = quiet_page
    attach(page, scene_file)
    ask(page, "[identify] what is this ")
    expect(page.get_by_role("alert")).to_contain_text("needs a box")
    drag(page, (0.105, 0.205), (0.455, 0.605))
    expect(page.get_by_role("alert")).to_be_hidden()


def test_counts_select_and_two_answers_are_compared(server: Server, quiet_page: Page, scene_file: Path) -> None:
    page = quiet_page
    detect(page, server, scene_file, DETECTED, AGAIN)
    expect(page.locator(".mv-count")).to_have_text(["2 × circle", "1 × dog"])
    page.locator(".mv-count").first.click()
    expect(page.locator(".mv-count").first).to_have_attribute("aria-pressed", "true")
    expect(answers(page).last.locator('.mv-phrase[data-entity="1"]')).to_have_attribute("aria-pressed", "true")
    expect(page.locator(".mv-mark").nth(2)).to_contain_class("mv-dim")
    page.locator(".mv-compare select").select_option("answer 1")
    expect(page.locator(".mv-compare [role=status]")).to_have_text(
        "1 in the same place, 1 moved, 1 only here, 2 only in the other (dashed)"
    )
    expect(page.locator(".mv-mark.mv-other")).to_have_count(4)
    server.model.script = ["<p>circle</p> {<10><20><45><60>}"]
    page.get_by_role("button", name="Answer this question again").click()
    expect(page.locator(".mv-mark:not(.mv-other)")).to_have_count(1)
    page.locator(".mv-compare select").select_option("before the retry")
    expect(page.locator(".mv-mark.mv-other")).to_have_count(3)


def test_labels_and_boxes_can_be_switched_off_everywhere(server: Server, quiet_page: Page, scene_file: Path) -> None:
    page = quiet_page
    detect(page, server, scene_file, DETECTED)
    for name, labels, boxes in (("Boxes", False, True), ("Neither", False, False), ("Labels", True, True)):
        page.locator(".mv-switch").get_by_role("button", name=name).click()
        for place, is_seen in (
            (".mv-tag", labels),
            (".mv-label", labels),
            (".mv-line", boxes),
            (".mv-box-line", boxes),
        ):
            expect(page.locator(place).first).to_be_visible(visible=is_seen)
    page.locator(".mv-switch").get_by_role("button", name="Boxes").click()
    page.reload()
    expect(page.locator(".gradio-container")).to_have_attribute("data-marks", "boxes")


def test_crowded_labels_shrink_and_the_rest_is_named(server: Server, quiet_page: Page, scene_file: Path) -> None:
    page = quiet_page
    place = random.Random(0)
    corners = [(place.randrange(94), place.randrange(94)) for _ in range(400)]
    many = " ".join(f"<p>thing {i}</p> {{<{x}><{y}><{x + 5}><{y + 5}>}}" for i, (x, y) in enumerate(corners))
    server.model.script = [many]
    attach(page, scene_file)
    ask(page, "[detection] everything")
    done(page, 1)
    expect(page.locator(".mv-mark")).to_have_count(300)
    expect(page.locator(".mv-counts")).to_contain_text("300 of 400 boxes are drawn.")
    expect(answers(page)).to_contain_text("300 of 400 boxes are drawn.")
    expect(page.locator(".mv-count")).to_have_count(4)
    page.get_by_role("button", name="396 more", exact=True).press("Enter")
    expect(page.locator(".mv-counts")).to_contain_text("and 388 more in 388 other phrases")
    page.get_by_role("button", name="fewer", exact=True).press("Enter")
    expect(page.locator(".mv-count")).to_have_count(4)
    assert page.locator(".mv-count-list").evaluate("list => list.offsetHeight < 3 * list.firstChild.offsetHeight")
    wide = """tags => tags.filter((tag) => tag.style.display !== "none" &&
        tag.querySelector("text").getBBox().width > tag.querySelector("rect").getBBox().width).length"""
    assert page.locator(".mv-tag:not(.mv-dot)").evaluate_all(wide) == 0  # no text leaves its plate
    dots = page.locator(".mv-tag.mv-dot").count()
    assert 0 < dots < 300
    page.mouse.move(*on_picture(page, 0.5, 0.5))
    page.mouse.wheel(0, -1200)  # with more room there are fewer dots
    page.wait_for_function("before => document.querySelectorAll('.mv-tag.mv-dot').length < before", arg=dots)


def test_pictures_are_tabs(server: Server, quiet_page: Page, scene_file: Path, tmp_path: Path) -> None:
    page = quiet_page
    detect(page, server, scene_file, DETECTED)
    Image.new("RGB", (100, 100), "green").save(tmp_path / "green.png")
    attach(page, tmp_path / "green.png")
    tabs = page.get_by_role("tab")
    expect(tabs).to_have_count(2)
    expect(tabs.last).to_have_attribute("aria-selected", "true")  # what is attached is shown
    expect(page.locator(".mv-mark")).to_have_count(0)
    tabs.last.press("ArrowLeft")
    expect(tabs.first).to_be_focused()
    expect(page.locator(".mv-mark")).to_have_count(4)
    ask(page, "what is it?")
    done(page, 2)
    expect(tabs.last).to_have_attribute("aria-selected", "true")
    # A box on an earlier picture means nothing to the next question, but its part can be asked about.
    tabs.first.click()
    draw(page)
    expect(page.locator(".mv-box-menu").get_by_role("button")).to_have_text(
        ["Ask about this part", "Copy its numbers", "Clear"]
    )


def test_shortcuts_their_sheet_and_switching_them_off(server: Server, quiet_page: Page, scene_file: Path) -> None:
    page = quiet_page
    detect(page, server, scene_file, DETECTED, AGAIN)
    question(page).press("[")  # is text there
    expect(page.locator(".mv-which")).to_have_text("Answer 2 of 2")
    page.locator(".mv-view").focus()
    page.keyboard.press("[")
    expect(page.locator(".mv-which")).to_have_text("Answer 1 of 2")
    page.keyboard.press("b")
    expect(page.get_by_role("button", name="Box: Draw a box")).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    sheet = page.get_by_role("dialog", name="Keyboard shortcuts")
    expect(sheet).to_be_visible()
    sheet.get_by_label("Single keys work").uncheck()
    page.keyboard.press("Escape")
    expect(sheet).to_be_hidden()
    page.locator(".mv-view").focus()
    page.keyboard.press("]")
    expect(page.locator(".mv-which")).to_have_text("Answer 1 of 2")


def test_the_panes_are_as_wide_as_the_reader_wants(quiet_page: Page) -> None:
    page = quiet_page
    edge = page.get_by_role("separator", name="Width of the picture")
    edge.focus()
    before = edge.bounding_box()
    page.keyboard.press("ArrowLeft")
    moved = edge.bounding_box()
    assert before is not None
    assert moved is not None
    assert moved["x"] < before["x"]
    page.reload()
    expect(edge).to_have_attribute("aria-valuenow", "54")


def test_the_strip_of_a_phone_opens_draws_and_closes(server: Server, phone: Page, scene_file: Path) -> None:
    page = phone
    visit(page, server.url)
    detect(page, server, scene_file, DETECTED)
    stage = page.locator(".mv-stage")
    page.locator(".mv-view").tap()
    expect(stage).to_contain_class("mv-full")
    page.get_by_role("button", name="Close the picture").tap()
    expect(stage).not_to_contain_class("mv-full")
    page.get_by_role("button", name="Identify", exact=True).tap()
    expect(stage).to_contain_class("mv-full")  # there is room to draw
    for label in ("Left", "Top", "Right", "Bottom"):
        expect(page.get_by_label(label, exact=True)).to_be_in_viewport(ratio=1)
    drag(page, (0.105, 0.205), (0.455, 0.605))
    page.locator(".mv-box-menu").get_by_role("button", name="Identify this").tap()
    expect(stage).not_to_contain_class("mv-full")
    done(page, 2)
    assert server.model.last_question() == "[identify] what is this {<10><20><45><60>}"
    page.locator(".mv-view").tap()
    expect(stage).to_contain_class("mv-full")
    whole = int(page.locator(".mv-scale").inner_text().removesuffix(" %"))
    pinch(page, 2)
    zoomed = int(page.locator(".mv-scale").inner_text().removesuffix(" %"))
    assert zoomed == pytest.approx(2 * whole, rel=0.1)  # the picture grows under the fingers, and the page does not
    assert page.evaluate("visualViewport.scale") == 1


@pytest.mark.parametrize("size", [(320, 256), (390, 420), (844, 390), (390, 844), (1280, 900), (1920, 1080)])
def test_every_window_shows_conversation_question_and_picture(
    server: Server, page: Page, scene_file: Path, size: tuple[int, int]
) -> None:
    width, height = size
    page.set_viewport_size({"width": width, "height": height})
    visit(page, server.url)
    detect(page, server, scene_file, DETECTED)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    chat = page.locator("#mv-chat").bounding_box()
    assert chat is not None
    assert chat["height"] >= 0.3 * height
    expect(question(page)).to_be_in_viewport(ratio=0.9)
    page.get_by_role("button", name="Identify", exact=True).press("Enter")
    if width < 700:
        expect(page.locator(".mv-stage")).to_contain_class("mv-full")  # there is room to draw
    elif not page.locator(".mv-splitter").is_visible():
        page.locator('[data-stage="full"], [data-stage="close"]').filter(visible=True).first.click()
    for label in ("Left", "Top", "Right", "Bottom"):
        page.get_by_label(label, exact=True).scroll_into_view_if_needed()
        expect(page.get_by_label(label, exact=True)).to_be_in_viewport(ratio=0.9)


def test_experts_are_a_layer_over_the_picture(serve: Serve, page: Page, scene_file: Path) -> None:
    model = ScriptedModel(info=replace(INFO, has_experts=True), trace=TRACE)
    visit(page, serve(model))
    attach(page, scene_file)
    ask(page, "what is it?")
    done(page, 1)
    expect(page.get_by_test_id("submit-button")).to_be_visible()
    page.get_by_role("button", name="Experts: which").click()
    layer = page.locator(".mv-canvas .mv-patches")
    expect(layer).to_be_visible()
    expect(page.locator(".mv-experts")).to_contain_text("Every patch has the colour of the expert")
    expect(page.locator(".mv-experts label")).to_contain_text("layer 2")
    page.get_by_label("Layer of the experts").press("ArrowLeft")
    expect(page.locator(".mv-experts label")).to_contain_text("layer 0")
    page.get_by_role("button", name="Hide experts").click()
    expect(page.locator(".mv-experts")).to_have_count(0)
    assert layer.get_attribute("href") is None
