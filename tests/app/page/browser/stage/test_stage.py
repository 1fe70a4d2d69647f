"""The stage: whose boxes it shows, zoom and pan, and boxes that are drawn on it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.app.helpers import Server
from tests.app.page.browsing import answers, ask, attach, converse, done, drag, on_picture, question

pytestmark = pytest.mark.browser

GROUNDED = "Here are <p>a red circle</p> {<10><20><45><60>} and <p>squares</p> {<60><30><90><90>}<delim>{<1><1><9><9>}."
OTHER = "<p>a dog</p> {<50><50><60><60>}"


def marks(page: Page) -> Locator:
    return page.locator(".mv-stage .mv-mark")


def width_of(node: Locator) -> float:
    frame = node.bounding_box()
    assert frame is not None
    return frame["width"]


def grounded(page: Page, server: Server, scene_file: Path, *script: str) -> None:
    converse(page, server, scene_file, "[grounding] describe this image in detail", *script)


def test_the_picture_is_on_the_stage_as_soon_as_it_is_attached(quiet_page: Page, scene_file: Path) -> None:
    page = quiet_page
    expect(page.locator(".mv-intro")).to_be_visible()
    attach(page, scene_file)
    expect(page.locator(".mv-intro")).to_be_hidden()
    expect(page.locator(".mv-pixels")).to_have_attribute("href", re.compile("^data:image/"))
    frame = page.locator(".mv-pixels").bounding_box()
    assert frame is not None
    assert frame["width"] == pytest.approx(2 * frame["height"], rel=0.01)  # as the scene


def test_the_stage_shows_the_boxes_of_the_chosen_answer(server: Server, quiet_page: Page, scene_file: Path) -> None:
    page = quiet_page
    grounded(page, server, scene_file, GROUNDED, OTHER)
    expect(marks(page)).to_have_count(1)
    expect(page.locator(".mv-which")).to_have_text("Answer 2 of 2")
    answers(page).first.locator(".mv-text").click(position={"x": 2, "y": 2})
    expect(marks(page)).to_have_count(3)
    expect(page.locator(".mv-which")).to_have_text("Answer 1 of 2")
    box = marks(page).first.locator(".mv-line").bounding_box()
    assert box is not None
    left, top = on_picture(page, 0.1, 0.2)
    assert (box["x"], box["y"]) == pytest.approx((left, top), abs=8)
    page.locator('[data-stage="next"]').click()
    expect(marks(page)).to_have_count(1)
    ask(page, "what is it?")
    done(page, 3)
    expect(page.locator(".mv-which")).to_have_text("Answer 3 of 3")  # the newest is shown
    expect(marks(page)).to_have_count(0)
    page.get_by_role("button", name="New chat").click()
    expect(page.locator(".mv-intro")).to_be_visible()


def test_phrases_and_boxes_light_each_other_up(server: Server, quiet_page: Page, scene_file: Path) -> None:
    page = quiet_page
    grounded(page, server, scene_file, GROUNDED)
    squares = page.locator('.mv-phrase[data-entity="2"]')
    squares.hover()
    expect(marks(page).nth(1)).to_contain_class("mv-lit")
    expect(marks(page).nth(0)).to_contain_class("mv-dim")
    page.mouse.move(*on_picture(page, 0.75, 0.6))  # within a square
    expect(squares).to_contain_class("mv-lit")
    page.mouse.click(*on_picture(page, 0.75, 0.6))
    expect(squares).to_have_attribute("aria-pressed", "true")
    page.mouse.move(*on_picture(page, 0.5, 0.02))
    expect(marks(page).nth(0)).to_contain_class("mv-dim")  # pressed, so it stays


def test_a_box_that_comes_to_lie_under_a_resting_pointer_waits_for_it_to_move(
    server: Server, quiet_page: Page, scene_file: Path
) -> None:
    page = quiet_page
    server.model.script = [GROUNDED]
    attach(page, scene_file)
    x, y = on_picture(page, 0.75, 0.6)  # within a square, once there is an answer
    page.mouse.move(x, y)
    ask(page, "[grounding] describe this image in detail")
    done(page, 1)
    expect(page.locator(".mv-stage .mv-mark:hover")).to_have_count(1)
    expect(page.locator(".mv-dim")).to_have_count(0)
    page.mouse.move(x + 3, y)
    expect(marks(page).nth(1)).to_contain_class("mv-lit")
    expect(marks(page).nth(0)).to_contain_class("mv-dim")


def test_zoom_and_pan_with_wheel_drag_keys_and_double_click(server: Server, quiet_page: Page, scene_file: Path) -> None:
    page = quiet_page
    grounded(page, server, scene_file, GROUNDED)
    picture = page.locator(".mv-pixels")
    fitted = picture.bounding_box()
    assert fitted is not None
    point = on_picture(page, 0.1, 0.5)
    page.mouse.move(*point)
    page.mouse.wheel(0, -500)
    grown = "width => document.querySelector('.mv-pixels').getBBox().width > 2 * width"
    page.wait_for_function(grown, arg=fitted["width"])
    assert on_picture(page, 0.1, 0.5) == pytest.approx(point, abs=2)  # what is under the wheel stays there
    box = marks(page).first.locator(".mv-line").bounding_box()
    assert box is not None
    assert (box["x"], box["y"]) == pytest.approx(on_picture(page, 0.1, 0.2), abs=8)
    before = on_picture(page, 0.5, 0.5)
    page.mouse.move(*point)
    page.mouse.down()
    page.mouse.move(point[0] - 40, point[1] - 30, steps=5)
    page.mouse.up()
    assert on_picture(page, 0.5, 0.5) == pytest.approx((before[0] - 40, before[1] - 30), abs=2)
    page.locator(".mv-view").focus()
    page.keyboard.press("ArrowLeft")
    assert on_picture(page, 0.5, 0.5)[0] > before[0] - 40
    page.keyboard.press("0")
    assert picture.bounding_box() == fitted
    page.keyboard.press("+")
    assert width_of(picture) > fitted["width"]
    page.keyboard.press("-")
    assert width_of(picture) == pytest.approx(fitted["width"])
    page.mouse.dblclick(*on_picture(page, 0.5, 0.1))
    assert width_of(picture) == pytest.approx(3 * fitted["width"])


def test_draw_a_box_and_identify_it(server: Server, quiet_page: Page, scene_file: Path) -> None:
    page = quiet_page
    attach(page, scene_file)
    page.get_by_role("button", name="Identify").click()
    expect(page.locator(".mv-box-text")).to_have_text("No box yet.")
    drag(page, (0.455, 0.605), (0.105, 0.205))
    expect(page.locator(".mv-box-text")).to_have_text("Box {<10><20><45><60>}")
    page.get_by_label("Right").fill("50")
    question(page).press("Enter")
    done(page, 1)
    assert server.model.last_question() == "[identify] what is this {<10><20><50><60>}"
    expect(page.locator(".mv-question .mv-box")).to_have_count(1)
    # The next box is drawn over the same image, which is not sent again; without a box the question is refused.
    page.get_by_role("button", name="Identify", exact=True).click()
    expect(page.locator(".mv-box-text")).to_have_text("No box yet.")
    expect(question(page)).to_have_value("[identify] what is this ")
    question(page).press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("needs a box")
    for label, value in (("Left", "0"), ("Top", "0"), ("Right", "20"), ("Bottom", "30")):
        page.get_by_label(label, exact=True).fill(value)
    page.get_by_label("Bottom").press("Enter")
    done(page, 2)
    assert server.model.last_question() == "[identify] what is this {<0><0><20><30>}"
    assert server.model.seen[-1][-1].images == ()
