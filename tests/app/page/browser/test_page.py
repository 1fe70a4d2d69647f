"""The page in a real browser, with a scripted model behind it."""

from __future__ import annotations

import re
import threading
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.app.helpers import Server, scene
from tests.app.page.browsing import answers, ask, attach, done, question
from tests.waiting import eventually

pytestmark = pytest.mark.browser

GROUNDED = "Here are <p>a red circle</p> {<10><20><45><60>} and <p>squares</p> {<60><30><90><90>}<delim>{<1><1><9><9>}."


def test_detection_with_boxes_over_the_image(server: Server, quiet_page: Page, scene_file: Path) -> None:
    page = quiet_page
    server.model.script, server.model.gate = [GROUNDED], threading.Semaphore(4)
    attach(page, scene_file)
    page.get_by_role("button", name="Detection", exact=True).click()
    expect(question(page)).to_have_value("[detection] ")
    question(page).press("End")
    question(page).type("everything")
    question(page).press("Enter")
    expect(answers(page)).to_contain_text("Here are")  # streams: the gate holds the rest back
    expect(answers(page)).to_have_attribute("data-state", "running")
    server.model.open_gate()
    done(page, 1)
    assert server.model.last_question() == "[detection] everything"
    assert server.model.seen[-1][-1].images[0].size == (200, 100)
    expect(answers(page).locator(".mv-text")).to_have_text("Here are a red circle and squares.")
    boxes = answers(page).locator("svg.mv-overlay .mv-box")
    expect(boxes).to_have_count(2)
    first = boxes.first.locator(".mv-box-line")
    assert [float(first.get_attribute(name) or 0) for name in ("x", "y", "width", "height")] == [105, 102.5, 350, 200]
    squares = page.get_by_role("button", name="squares, region 2")
    squares.focus()  # the keyboard shows what the mouse shows
    expect(boxes.first).to_contain_class("mv-dim")
    page.keyboard.press("Enter")
    expect(squares).to_have_attribute("aria-pressed", "true")
    with page.expect_download() as download:
        page.get_by_role("button", name="Save image").click()
    assert download.value.path().read_bytes().startswith(b"\x89PNG")


def test_stop_frees_the_model_and_keeps_what_was_said(server: Server, quiet_page: Page) -> None:
    page, model = quiet_page, server.model
    model.script, model.gate = ["one two three four"], threading.Semaphore(2)
    ask(page, "count")
    expect(answers(page)).to_contain_text("one two")
    question(page).fill("typed meanwhile")
    page.locator("#mv-question .stop-button").click()
    expect(answers(page)).to_contain_text("Stopped.")  # although the model still blocks
    expect(page.get_by_test_id("submit-button")).to_be_visible()
    expect(question(page)).to_have_value("typed meanwhile")
    model.open_gate()
    assert eventually(lambda: model.open_streams == 0)
    assert model.closed_early == 1
    question(page).press("Enter")
    done(page, 2)
    assert [turn.text for turn in model.seen[-1]] == ["count", "one two", "typed meanwhile"]


def test_turns_retry_undo_edit_and_new_chat(server: Server, quiet_page: Page, scene_file: Path) -> None:
    page, model = quiet_page, server.model
    model.script = ["a dog", "brown", "black"]
    attach(page, scene_file)
    ask(page, "what is it?")
    done(page, 1)
    ask(page, "which colour?")
    done(page, 2)
    assert [turn.text for turn in model.seen[-1]] == ["what is it?", "a dog", "which colour?"]
    page.get_by_role("button", name="Answer this question again").click()
    expect(answers(page).nth(1)).to_contain_text("black")
    done(page, 2)
    page.get_by_role("button", name="Take the last question and answer back").click()
    expect(answers(page)).to_have_count(1)
    expect(question(page)).to_have_value("which colour?")
    page.get_by_role("button", name="Edit this question").click()
    expect(question(page)).to_have_value("what is it?")
    expect(page.locator("#mv-question .thumbnail-item")).to_have_count(1)
    page.get_by_role("button", name="Cancel").click()
    expect(question(page)).to_have_value("which colour?")
    page.get_by_role("button", name="Edit this question").click()
    expect(question(page)).to_have_value("what is it?")
    ask(page, "who is it?")
    expect(page.locator(".mv-question")).to_have_count(1)
    expect(page.locator(".mv-question")).to_contain_text("who is it?")
    done(page, 1)
    assert len(model.seen[-1]) == len(model.seen[-1][0].images) == 1
    page.get_by_role("button", name="New chat").click()
    expect(answers(page)).to_have_count(0)
    expect(page.locator("#mv-examples")).to_be_visible()


def test_two_visitors_do_not_see_each_other_and_a_closed_tab_frees_the_model(
    server: Server, quiet_page: Page, browser: Browser
) -> None:
    page, model = quiet_page, server.model
    ask(page, "my secret")
    done(page, 1)
    other_context = browser.new_context()
    other = other_context.new_page()
    other.goto(server.url)
    expect(question(other)).to_be_visible()
    expect(answers(other)).to_have_count(0)
    model.script, model.delay = ["word " * 10_000], 0.02
    ask(other, "hello")
    assert eventually(lambda: model.open_streams == 1)
    assert [turn.text for turn in model.seen[-1]] == ["hello"]
    other_context.close()
    assert eventually(lambda: model.open_streams == 0)
    assert model.closed_early == 1
    expect(answers(page)).to_have_count(1)
    expect(page.locator("body")).not_to_contain_text("hello")


def test_phone_width_touch_and_dark(server: Server, browser: Browser, scene_file: Path) -> None:
    context = browser.new_context(
        viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True, color_scheme="dark"
    )
    page = context.new_page()
    page.set_default_timeout(20_000)
    page.goto(f"{server.url}?__theme=dark")
    server.model.script = [GROUNDED]
    attach(page, scene_file)
    ask(page, "[grounding] describe this image in detail")
    done(page, 1)
    expect(page.locator("body")).to_contain_class("dark")
    for selector in ("#mv-question textarea", ".mv-view", '[data-testid="submit-button"]', ".mv-header"):
        box = page.locator(selector).bounding_box()
        assert box is not None
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 390
        assert box["y"] + box["height"] <= 844
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    colours = page.locator(".mv-answer").evaluate(
        "node => [getComputedStyle(node).color, getComputedStyle(document.body).backgroundColor]"
    )
    light, dark = (sum(map(int, colour[4:-1].split(","))) for colour in colours)
    assert light > 600 > 200 > dark
    context.close()


def test_images_can_be_dropped_and_pasted_anywhere(server: Server, quiet_page: Page, scene_file: Path) -> None:
    page = quiet_page
    expect(page.get_by_role("button", name="Chat", exact=True)).to_have_attribute("aria-pressed", "true")
    give = """([name, target, bytes]) => {
        const transfer = new DataTransfer();
        transfer.items.add(new File([new Uint8Array(bytes)], "scene.png", { type: "image/png" }));
        const options = { bubbles: true, cancelable: true };
        const event = name === "drop" ? new DragEvent(name, { ...options, dataTransfer: transfer })
                                      : new ClipboardEvent(name, { ...options, clipboardData: transfer });
        document.querySelector(target).dispatchEvent(event);
    }"""
    data = list(scene_file.read_bytes())
    for count, (name, target) in enumerate(
        (("drop", "#mv-chat"), ("paste", "body"), ("paste", "#mv-question textarea"))
    ):
        page.evaluate(give, [name, target, data])
        expect(page.locator("#mv-question .thumbnail-item")).to_have_count(count + 1)
    ask(page, "what is it?")
    expect(page.get_by_role("alert")).to_contain_text("takes one image per question; 3 are attached")
    expect(question(page)).to_have_value("what is it?")


def test_a_scan_has_a_thumbnail(server: Server, quiet_page: Page, tmp_path: Path) -> None:
    page = quiet_page
    scene().save(tmp_path / "scan.tif")
    attach(page, tmp_path / "scan.tif")
    thumbnail = page.locator("#mv-question .thumbnail-item img")
    expect(thumbnail).to_have_attribute("src", re.compile(r"\.png$"))  # browsers show no TIFF
    expect(thumbnail).to_have_js_property("naturalWidth", 200)
    ask(page, "count")
    done(page, 1)
    assert server.model.seen[-1][-1].images[0].size == (200, 100)


def test_new_scene_examples_and_settings(server: Server, quiet_page: Page) -> None:
    page = quiet_page
    expect(page.locator("#mv-toy")).to_contain_text("tiny model")
    question(page).fill("what is it?")
    page.locator(".mv-card").click()  # runs by itself; what was typed stays
    done(page, 1)
    assert server.model.last_question() == "[detection] red circle"
    assert len(server.model.seen[-1][-1].images) == 1
    expect(question(page)).to_have_value("what is it?")
    page.get_by_role("button", name="New scene").click()
    expect(page.locator("#mv-question .thumbnail-item")).to_have_count(1)
    expect(question(page)).to_have_value("what is it?")
    expect(page.get_by_label("Seed")).to_be_hidden()  # closed settings are not in the keyboard's way
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("Seed").fill("42")
    page.get_by_label("number input for Temperature").fill("0")
    question(page).press("Enter")
    done(page, 2)
    assert (server.model.samplings[-1].seed, server.model.samplings[-1].temperature) == (42, 0)
    page.locator(".mv-details summary").last.click()
    expect(page.locator(".mv-facts").last).to_contain_text("greedy")
