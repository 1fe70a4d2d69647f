"""What is pasted, dropped and pressed, as a person does it: the clipboard, a drag from elsewhere, an input method."""

from __future__ import annotations

import re
import threading
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, Route, expect

from tests.app.helpers import Server
from tests.app.page.browsing import answers, ask, attach, done, question

pytestmark = pytest.mark.browser

COPY = """async ([text, bytes]) => {
    const items = {};
    if (text) items["text/plain"] = new Blob([text], { type: "text/plain" });
    if (bytes) items["image/png"] = new Blob([new Uint8Array(bytes)], { type: "image/png" });
    await navigator.clipboard.write([new ClipboardItem(items)]);
}"""


def copy(page: Page, text: str = "", picture: Path | None = None) -> None:
    """Into the clipboard, as another program does it."""
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.evaluate(COPY, [text, list(picture.read_bytes()) if picture else None])


def drag(page: Page, selector: str, *, items: dict[str, str] | None = None, files: list[Path] | None = None) -> None:
    """Over an element and dropped there, from another window."""
    box = page.locator(selector).bounding_box()
    assert box is not None
    data: dict[str, Any] = {
        "items": [{"mimeType": kind, "data": value} for kind, value in (items or {}).items()],
        "files": [str(path) for path in files or []],
        "dragOperationsMask": 1,
    }
    mouse = page.context.new_cdp_session(page)
    for kind in ("dragEnter", "dragOver", "drop"):
        place = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2}
        mouse.send("Input.dispatchDragEvent", {"type": kind, **place, "data": data})


def thumbnails(page: Page) -> Any:
    return page.locator("#mv-question .thumbnail-item")


def test_a_picture_is_pasted_wherever_the_caret_is(server: Server, quiet_page: Page, scene_file: Path) -> None:
    page = quiet_page
    copy(page, picture=scene_file)
    question(page).click()
    page.keyboard.press("Control+V")
    expect(thumbnails(page)).to_have_count(1)
    page.get_by_role("button", name="New chat").focus()
    page.keyboard.press("Control+V")
    expect(thumbnails(page)).to_have_count(2)


def test_text_with_a_picture_is_text_for_a_field(server: Server, quiet_page: Page, scene_file: Path) -> None:
    page = quiet_page
    page.get_by_role("button", name="Settings", exact=True).click()
    copy(page, "42", scene_file)
    page.get_by_label("Seed").click()
    page.keyboard.press("Control+V")
    expect(page.get_by_label("Seed")).to_have_value("42")
    expect(page.locator("#mv-lines")).to_contain_text("the picture that came with it was not")
    expect(thumbnails(page)).to_have_count(0)
    question(page).click()
    page.keyboard.press("Control+V")
    expect(question(page)).to_have_value("42")
    expect(thumbnails(page)).to_have_count(0)


def test_what_is_pasted_beside_all_fields_goes_into_the_question(
    server: Server, quiet_page: Page, scene_file: Path
) -> None:
    page = quiet_page
    copy(page, "from a table", scene_file)
    page.get_by_role("button", name="New chat").focus()
    page.keyboard.press("Control+V")
    expect(question(page)).to_have_value("from a table")
    expect(page.locator("#mv-lines")).to_contain_text("the picture that came with it was not")
    expect(thumbnails(page)).to_have_count(0)


def test_files_are_dropped_anywhere(server: Server, quiet_page: Page, scene_file: Path) -> None:
    page = quiet_page
    drag(page, "#mv-chat", files=[scene_file])
    expect(thumbnails(page)).to_have_count(1)
    drag(page, "#mv-question textarea", files=[scene_file])
    expect(thumbnails(page)).to_have_count(2)


def test_dropped_text_goes_into_the_question_or_the_field_it_was_dropped_on(server: Server, quiet_page: Page) -> None:
    page = quiet_page
    question(page).fill("what is ")
    drag(page, "#mv-chat", items={"text/plain": "the red circle"})
    expect(question(page)).to_have_value("what is the red circle")
    page.get_by_role("button", name="Settings", exact=True).click()
    page.get_by_label("Seed").hover()  # once it stands still
    drag(page, "#mv-settings input[placeholder]", items={"text/plain": "7"})
    expect(page.get_by_label("Seed")).to_have_value("7")


LINKS = (
    {"text/uri-list": "https://example.org/cat.html", "text/plain": "https://example.org/cat.html"},
    {"text/uri-list": "https://example.org/cat.png", "text/html": '<img src="https://example.org/cat.png">'},
)


def test_what_comes_while_the_page_is_being_built_is_there_once_it_is(
    server: Server, page: Page, scene_file: Path
) -> None:
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    held: list[Route] = []
    come = threading.Event()
    page.route(
        re.compile(r"/(assets|static)/.*\.js"),
        lambda route: route.continue_() if come.is_set() else held.append(route),
    )
    page.goto(server.url, wait_until="commit")
    expect(question(page)).to_have_count(0)
    drag(page, "body", files=[scene_file])
    drag(page, "body", items={"text/plain": "what is it?"})
    drag(page, "body", items=LINKS[0])
    assert held, "the page was there already"
    come.set()
    for route in held:
        route.continue_()
    expect(thumbnails(page)).to_have_count(1)
    expect(question(page)).to_have_value("what is it?")
    expect(page.locator(".mv-stage")).to_have_attribute("data-state", "picture")  # it has heard of them, too
    expect(page.locator("#mv-lines [role=alert]")).to_contain_text("is not fetched from here")
    assert page.url == server.url
    assert errors == []


def test_links_and_pictures_of_other_pages_are_not_dropped_in_silence(quiet_page: Page) -> None:
    page = quiet_page  # it fails if another host is asked for anything
    drops = [(items, place) for items in LINKS for place in ("#mv-chat", "#mv-question textarea")]
    for count, (items, place) in enumerate(drops, start=1):
        drag(page, place, items=items)
        expect(page.locator("#mv-lines [role=alert]")).to_contain_text("is not fetched from here")
        ask(page, "hello")
        expect(page.locator("#mv-lines [role=alert]")).to_have_count(0)
        done(page, count)
    drag(page, "#mv-chat", items=LINKS[0])
    expect(page.locator("#mv-lines [role=alert]")).to_be_visible()
    drag(page, "#mv-chat", items={"text/plain": "some words"})  # what is said is about the last drop
    expect(question(page)).to_have_value("some words")
    expect(page.locator("#mv-lines [role=alert]")).to_have_count(0)


def test_the_page_s_own_pictures_can_be_dragged_into_the_question(server: Server, quiet_page: Page) -> None:
    page = quiet_page
    expect(question(page)).to_be_visible()
    source = page.locator(".mv-card img").get_attribute("src") or ""
    drag(page, "#mv-chat", items={"text/html": f'<img src="{source}">', "text/uri-list": source})
    expect(thumbnails(page)).to_have_count(1)


def test_escape_while_composing_does_not_stop_the_answer(server: Server, quiet_page: Page) -> None:
    page, model = quiet_page, server.model
    model.script, model.gate = ["one two three four"], threading.Semaphore(2)
    ask(page, "count")
    expect(answers(page)).to_contain_text("one two")
    question(page).click()
    keyboard = page.context.new_cdp_session(page)
    keyboard.send("Input.imeSetComposition", {"text": "に", "selectionStart": 1, "selectionEnd": 1})
    page.keyboard.press("Escape")
    model.gate.release(1)
    expect(answers(page)).to_contain_text("one two three")
    expect(answers(page)).to_have_attribute("data-state", "running")
    keyboard.send("Input.insertText", {"text": "日本"})
    expect(question(page)).to_have_value(re.compile("日本"))
    page.keyboard.press("Escape")
    expect(answers(page)).to_contain_text("Stopped.")
    model.open_gate()


def test_a_question_sent_during_an_upload_goes_off_once_the_picture_is_there(
    server: Server, quiet_page: Page, scene_file: Path
) -> None:
    page = quiet_page
    held: list[Route] = []
    page.route("**/upload?*", lambda route: held.append(route))
    page.locator("#mv-question input[type=file]").set_input_files(str(scene_file))
    expect(page.get_by_role("status", name="Uploading")).to_be_visible()
    question(page).fill("what is it?")
    question(page).press("Enter")
    question(page).press("Enter")
    expect(page.locator("#mv-lines")).to_contain_text("sent as soon as the picture is here")
    page.wait_for_timeout(200)  # the upload is held by then
    held[0].continue_()
    done(page, 1)
    assert len(server.model.seen) == 1
    assert len(server.model.seen[0][0].images) == 1
    expect(page.locator("#mv-lines p")).to_have_count(0)


def test_a_task_button_keeps_what_was_typed_and_asks_nobody(quiet_page: Page) -> None:
    page = quiet_page
    page.wait_for_timeout(1000)  # what a page asks when it is opened has been asked by then
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    for text, task, expected in (
        ("", "Refer", "[refer] "),
        ("red circle", "Refer", "[refer] red circle"),
        ("[refer] red circle", "Detection", "[detection] red circle"),
        ("[refer] red circle", "Chat", "red circle"),
        ("[caption] Briefly describe this image.", "Grounding", "[grounding] describe this image in detail"),
        ("[identify] what is this ", "Question", "[vqa] "),
        ("  [REFER]  a dog", "Detection", "[detection] a dog"),
        ("[detection] ", "Chat", ""),
    ):
        question(page).fill(text)
        page.get_by_role("button", name=task, exact=True).click()
        expect(question(page)).to_have_value(expected)
        expect(page.get_by_role("button", name=task, exact=True)).to_have_attribute("aria-pressed", "true")
    assert asked == []


def test_what_gradio_says_is_said_in_the_one_place(
    server: Server, quiet_page: Page, tmp_path: Path, scene_file: Path
) -> None:
    page = quiet_page
    (tmp_path / "large.png").write_bytes(b"x" * 27_000_000)
    page.locator("#mv-question input[type=file]").set_input_files(str(tmp_path / "large.png"))
    line = page.locator("#mv-lines [role=alert]")
    expect(line).to_contain_text("exceed")
    expect(page.get_by_test_id("toast-body")).to_be_hidden()
    attach(page, scene_file)
    expect(line).to_have_count(0)


def test_a_refusal_goes_when_the_question_is_another_and_comes_again(server: Server, quiet_page: Page) -> None:
    page = quiet_page
    refusal = page.locator("#mv-notice [role=alert]")
    for _ in range(2):
        ask(page, "[refer] the dog")
        expect(refusal).to_contain_text("add one first")
        expect(refusal).to_be_visible()  # not the last one, which is hidden
        page.keyboard.type("s")
        expect(refusal).to_be_hidden()
        page.keyboard.press("Backspace")


def test_the_picture_s_remove_button_can_be_seen_by_a_finger(quiet_page: Page, scene_file: Path) -> None:
    page = quiet_page
    attach(page, scene_file)
    remove = page.get_by_role("button", name="Remove file")
    assert remove.evaluate("node => getComputedStyle(node).opacity") == "1"
    remove.click()
    expect(thumbnails(page)).to_have_count(0)
