"""Pictures as visitors bring them: odd names, phones' formats, colour profiles, none at all."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("playwright.sync_api", reason="the browser tests want playwright")
from PIL import Image
from playwright.sync_api import Page, Route, expect

from tests.app.chat.decoding.profiles import swapped
from tests.app.helpers import Server, encode, scene
from tests.app.page.browsing import ask, attach, done, question
from tests.fakes import INFO

pytestmark = pytest.mark.browser

# The colour in the middle of the picture that the first question shows.
SHOWN = """async () => {
    const picture = new Image();
    picture.src = document.querySelector(".mv-question image").getAttribute("href");
    await picture.decode();
    const canvas = Object.assign(document.createElement("canvas"), { width: 1, height: 1 });
    const context = canvas.getContext("2d");
    context.drawImage(picture, -picture.naturalWidth / 2, -picture.naturalHeight / 2);
    return [...context.getImageData(0, 0, 1, 1).data].slice(0, 3);
}"""


def test_content_decides_what_a_file_is(server: Server, quiet_page: Page, tmp_path: Path) -> None:
    for count, name in enumerate((".png", "..png", "noext", "photo.jpg_large", "picture.txt"), start=1):
        (tmp_path / name).write_bytes(encode(scene()))
        attach(quiet_page, tmp_path / name)
        thumbnail = quiet_page.locator("#mv-question .thumbnail-item img")
        expect(thumbnail).to_have_js_property("naturalWidth", 200)
        ask(quiet_page, "what is it?")
        done(quiet_page, count)
        assert server.model.seen[-1][-1].images[0].size == (200, 100), name
        expect(quiet_page.get_by_role("alert")).to_have_count(0)


def test_a_file_that_is_no_picture_is_refused_in_one_line(quiet_page: Page, tmp_path: Path) -> None:
    (tmp_path / "cat.png").write_text("no cat")
    quiet_page.locator("#mv-question input[type=file]").set_input_files(str(tmp_path / "cat.png"))
    expect(quiet_page.get_by_role("alert")).to_contain_text("cat.png is not an image that can be read")
    expect(quiet_page.locator("#mv-question .thumbnail-item")).to_have_count(0)


def test_page_and_model_see_the_same_colours(server: Server, quiet_page: Page, tmp_path: Path) -> None:
    """The file's numbers are green; its profile makes them red."""
    Image.new("RGB", (300, 300), (40, 220, 40)).save(tmp_path / "red.png", icc_profile=swapped())
    attach(quiet_page, tmp_path / "red.png")
    ask(quiet_page, "which colour?")
    done(quiet_page, 1)
    seen = server.model.seen[-1][-1].images[0].getpixel((150, 150))
    assert seen == pytest.approx((220, 40, 40), abs=8)
    assert quiet_page.evaluate(SHOWN) == pytest.approx(seen, abs=4)


def test_without_an_image_a_button_adds_one(server: Server, quiet_page: Page, scene_file: Path) -> None:
    server.model.info = replace(INFO, one_image_per_chat=True)
    ask(quiet_page, "what is in the image?")
    with quiet_page.expect_file_chooser() as chooser:
        quiet_page.get_by_role("button", name="Add an image").click()
    chooser.value.set_files(scene_file)
    expect(quiet_page.locator("#mv-question .thumbnail-item")).to_have_count(1)
    expect(question(quiet_page)).to_have_value("what is in the image?")
    question(quiet_page).press("Enter")
    done(quiet_page, 1)


def test_the_same_file_can_be_chosen_again_in_a_new_chat(server: Server, quiet_page: Page, scene_file: Path) -> None:
    for _ in range(2):
        with quiet_page.expect_file_chooser() as chooser:
            quiet_page.get_by_role("button", name="Choose a picture").click()
        chooser.value.set_files(scene_file)
        expect(quiet_page.locator("#mv-question .thumbnail-item")).to_have_count(1)
        ask(quiet_page, "what is it?")
        done(quiet_page, 1)
        quiet_page.get_by_role("button", name="New chat").click()
        expect(quiet_page.locator(".mv-message")).to_have_count(0)


def test_a_long_chat_goes_on_as_a_new_one(server: Server, quiet_page: Page, scene_file: Path) -> None:
    attach(quiet_page, scene_file)
    ask(quiet_page, "what is it?")
    done(quiet_page, 1)
    for count in range(2, 12):
        ask(quiet_page, "and now?")
        done(quiet_page, count)
    button = quiet_page.get_by_role("button", name="New chat with this picture")
    button.click()
    expect(quiet_page.locator(".mv-answer")).to_have_count(0)
    thumbnail = quiet_page.locator("#mv-question .thumbnail-item img")
    expect(thumbnail).to_have_js_property("naturalWidth", 200)
    expect(quiet_page.locator(".mv-pixels")).to_be_visible()  # on the stage, too, where a box can be drawn


def test_what_is_typed_while_a_file_is_replaced_stays(server: Server, quiet_page: Page, tmp_path: Path) -> None:
    Image.new("RGB", (300, 300), (40, 220, 40)).save(tmp_path / "red.png", icc_profile=swapped())
    held: list[Route] = []
    quiet_page.route("**/run/predict*", lambda route: held.append(route))
    attach(quiet_page, tmp_path / "red.png")
    thumbnail = quiet_page.locator("#mv-question .thumbnail-item img")
    before = thumbnail.get_attribute("src") or ""
    quiet_page.wait_for_timeout(500)
    question(quiet_page).press_sequentially("which colour?")
    for route in held:
        route.continue_()
    quiet_page.unroute("**/run/predict*")
    expect(thumbnail).not_to_have_attribute("src", before)
    quiet_page.wait_for_timeout(500)
    expect(question(quiet_page)).to_have_value("which colour?")
