"""Saving, opening, printing and copying, with what a visitor presses."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.app.helpers import Server
from tests.app.page.browsing import answers, ask, attach, done, question

pytestmark = pytest.mark.browser

GROUNDED = (
    "# Shapes\n\n- <p>a red circle</p> {<10><20><45><60>}\n- **<p>squares</p> {<60><30><90><90>}**\n\n```py\nx = 1\n```"
)


def save(page: Page, label: str, folder: Path) -> Path:
    """What the menu saves under this label."""
    page.locator(".mv-menu summary").press("Enter")
    with page.expect_download() as download:
        page.get_by_role("button", name=label).click()
    path = folder / download.value.suggested_filename
    download.value.save_as(path)
    return path


def test_a_saved_page_works_without_the_server(
    server: Server, quiet_page: Page, scene_file: Path, tmp_path: Path
) -> None:
    page = quiet_page
    server.model.script = [GROUNDED.replace("x = 1", "x = 1" + " + 1" * 80)]
    attach(page, scene_file)
    ask(page, "[grounding] what is it?")
    done(page, 1)
    path = save(page, "Save as a page", tmp_path)
    assert path.name == "chat_scripted-model_grounding-what-is-it.html"
    expect(page.locator(".mv-menu summary")).to_be_focused()
    requests: list[str] = []
    errors: list[str] = []
    other = page.context.new_page()
    other.on("requestfinished", lambda request: requests.append(request.url))
    other.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    other.on("pageerror", lambda error: errors.append(str(error)))
    other.goto(path.as_uri())
    squares = other.get_by_role("button", name="squares, region 2")
    squares.click()
    expect(squares).to_have_attribute("aria-pressed", "true")
    circle = other.locator(".mv-answer .mv-box").first
    expect(circle).to_contain_class("mv-dim")
    squares.press("Enter")
    other.mouse.move(0, 0)
    other.locator("summary").first.focus()
    expect(circle).not_to_contain_class("mv-dim")
    expect(other.locator(".mv-answer svg.mv-overlay")).to_be_visible()
    other.locator(".mv-details summary").click()
    expect(other.locator(".mv-facts")).to_contain_text("Scripted model")
    other.evaluate("const image = new Image(); image.src = 'https://example.org/x.png'; document.body.append(image)")
    other.wait_for_timeout(200)
    other.emulate_media(media="print")  # all of the long line is on paper
    assert other.locator(".mv-code pre").evaluate("code => code.scrollWidth <= code.clientWidth")
    assert [url for url in requests if not url.startswith(("file:", "data:"))] == []
    assert all("example.org" in error for error in errors), errors


def test_a_chat_is_saved_opened_and_continued(
    server: Server, quiet_page: Page, scene_file: Path, tmp_path: Path
) -> None:
    page = quiet_page
    server.model.script = [GROUNDED, "it is red"]
    attach(page, scene_file)
    ask(page, "[grounding] what is it?")
    done(page, 1)
    path = save(page, "Save to open again", tmp_path)
    assert json.loads(path.read_text(encoding="utf-8"))["exchanges"][0]["model"] == "Scripted model"
    page.get_by_role("button", name="New chat").click()
    expect(answers(page)).to_have_count(0)
    page.locator(".mv-menu summary").click()
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Open a saved chat").click()
    chooser.value.set_files(path)
    done(page, 1)
    expect(page.locator("#mv-notice")).to_contain_text(f"Opened {path.name}: 1 question.")
    expect(answers(page).locator(".mv-phrase")).to_have_count(2)
    ask(page, "which colour?")
    done(page, 2)
    assert [turn.text for turn in server.model.seen[-1]] == ["[grounding] what is it?", GROUNDED, "which colour?"]
    assert server.model.seen[-1][0].images[0].size == (200, 100)
    path.write_text("{}", encoding="utf-8")
    page.on("dialog", lambda dialog: dialog.accept())
    page.locator(".mv-menu summary").click()
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Open a saved chat").click()
    chooser.value.set_files(path)
    expect(page.get_by_role("alert")).to_contain_text("has no field 'format'")
    done(page, 2)


def test_the_menu_closes_by_escape_and_by_a_click_elsewhere(server: Server, quiet_page: Page) -> None:
    page = quiet_page
    menu = page.locator(".mv-menu")
    menu.locator("summary").press("Enter")
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Save as a page")).to_be_focused()
    page.keyboard.press("Escape")
    expect(menu).not_to_have_attribute("open", "")
    expect(menu.locator("summary")).to_be_focused()
    menu.locator("summary").click()
    question(page).click()
    expect(menu).not_to_have_attribute("open", "")
    menu.locator("summary").click()
    page.get_by_role("button", name="Save as a page").click()
    expect(page.get_by_role("alert")).to_contain_text("nothing to save yet")


def test_a_long_answer_prints_on_several_pages_and_alone(server: Server, quiet_page: Page, scene_file: Path) -> None:
    page = quiet_page
    server.model.script = [GROUNDED + "\n\n" + "\n".join(f"line {number}" for number in range(200))]
    attach(page, scene_file)
    ask(page, "count")
    done(page, 1)
    pdf = page.pdf()
    num_pages = len(re.findall(rb"/Type\s*/Page\b", pdf))
    assert 4 <= num_pages <= 9
    page.emulate_media(media="print")
    for gone in (
        "#mv-question",
        ".mv-answer .mv-context",
        "#mv-header",
        "#mv-tasks-row",
        ".mv-answer [data-action=retry]",
    ):
        expect(page.locator(gone).first).to_be_hidden()
    expect(answers(page).locator(".mv-text").get_by_text("line 199")).to_be_visible()
    expect(page.locator(".mv-question svg.mv-overlay")).to_be_visible()


def test_selected_text_has_no_numbers_in_it(server: Server, quiet_page: Page, scene_file: Path) -> None:
    page = quiet_page
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    server.model.script = ["See <p>a red circle</p> {<10><20><45><60>}, <p>squares</p> {<60><30><90><90>} and more."]
    attach(page, scene_file)
    ask(page, "[grounding] what is it?")
    done(page, 1)
    frame = answers(page).locator(".mv-text").bounding_box()
    assert frame is not None
    page.mouse.move(frame["x"] + 1, frame["y"] + 8)
    page.mouse.down()
    page.mouse.move(frame["x"] + frame["width"] - 2, frame["y"] + frame["height"] - 4, steps=10)
    page.mouse.up()
    page.keyboard.press("Control+c")
    copied = page.evaluate("navigator.clipboard.readText()")
    assert " ".join(copied.split()) == "See a red circle, squares and more."
    shown = page.locator(".mv-phrase").first.evaluate("node => getComputedStyle(node, '::after').content")
    assert shown == '"1"'


def test_every_line_has_a_direction_of_its_own(server: Server, quiet_page: Page) -> None:
    page = quiet_page
    server.model.script = [
        "English first\nهذه دائرة حمراء\n\nEnglish",
        "- English\n- هذه دائرة حمراء\n\n> حمراء\n\n|a|b|\n|:-:|-:|\n|1|2|",
    ]
    ask(page, "one")
    done(page, 1)
    ask(page, "two")
    done(page, 2)
    lefts = (
        answers(page)
        .nth(0)
        .locator(".mv-text")
        .evaluate("""node => {
        const range = document.createRange();
        const text = node.firstChild;
        return [0, 14].map((start) => {
            range.setStart(text, start);
            range.setEnd(text, start + 13);
            const line = range.getBoundingClientRect();
            return [line.left - node.getBoundingClientRect().left, node.getBoundingClientRect().right - line.right];
        });
    }""")
    )
    assert lefts[0][0] < 5 < lefts[0][1]
    assert lefts[1][1] < 5 < lefts[1][0]
    directions = (
        answers(page).nth(1).locator("li").evaluate_all("nodes => nodes.map((n) => getComputedStyle(n).direction)")
    )
    assert directions == ["ltr", "rtl"]
    quote = answers(page).nth(1).locator("blockquote")
    assert quote.evaluate("node => getComputedStyle(node).borderRightWidth") == "3px"
    cells = answers(page).nth(1).locator("td").evaluate_all("nodes => nodes.map((n) => getComputedStyle(n).textAlign)")
    assert cells == ["center", "right"]


def test_code_is_copied_by_its_button(server: Server, quiet_page: Page) -> None:
    page = quiet_page
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    server.model.script = ["```py\nprint('<b>')\n```"]
    ask(page, "hello")
    done(page, 1)
    page.get_by_role("button", name="Copy the code").click()
    expect(answers(page).get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == "print('<b>')"


def test_half_a_character_does_not_end_a_conversation(server: Server, quiet_page: Page) -> None:
    page = quiet_page
    server.model.script = ["a \ud800 b", "fine"]
    question(page).evaluate("(node) => { node.value = 'half \\ud83d end'; node.dispatchEvent(new Event('input')); }")
    question(page).press("Enter")
    done(page, 1)
    expect(answers(page).locator(".mv-text")).to_have_text("a \ufffd b")
    ask(page, "and now?")
    done(page, 2)
    assert server.model.seen[-1][0].text == "half \ufffd end"
    expect(question(page)).to_have_value("")
    question(page).evaluate("(node) => { node.value = 'draft \\ud83d'; node.dispatchEvent(new Event('input')); }")
    page.get_by_role("button", name="Edit this question").first.click()
    expect(question(page)).to_have_value("half \ufffd end")
    page.get_by_role("button", name="Cancel").click()
    expect(question(page)).to_have_value("draft \ufffd")


def test_saved_files_are_named_after_what_they_show(server: Server, quiet_page: Page, scene_file: Path) -> None:
    page = quiet_page
    server.model.script = ["{<10><20><45><60>}"]
    attach(page, scene_file)
    ask(page, "[refer] the red circle")
    done(page, 1)
    names = []
    for label in ("Save JSON", "Save image"):
        with page.expect_download() as download:
            page.get_by_role("button", name=label).click()
        names.append(download.value.suggested_filename)
        if label == "Save JSON":
            data = json.loads(download.value.path().read_text(encoding="utf-8"))
            assert (data["question"], data["model"]) == ("[refer] the red circle", "Scripted model")
            assert [region["label"] for region in data["regions"]] == ["the red circle"]
            assert data["settings"]["temperature"] == 0.6
    stem = "scripted-model_scene_refer-the-red-circle"
    assert names == [f"{stem}_boxes.json", f"{stem}_boxes.png"]
