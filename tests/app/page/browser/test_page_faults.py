"""The page when something goes wrong: bad files, hostile text, errors of the model, a server that was restarted."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from models.errors import NotEnoughMemory
from tests.app.helpers import Server
from tests.app.page.browsing import answers, ask, attach, done, question
from tests.waiting import eventually

pytestmark = pytest.mark.browser


def test_hostile_text_does_nothing(server: Server, quiet_page: Page, scene_file: Path) -> None:
    page = quiet_page
    attack = "<img src=x onerror=window.__xss=1><script>window.__xss=1</script><svg onload=window.__xss=1>"
    server.model.script = [f'{attack} <p>"><img src=x onerror=window.__xss=1></p> {{<1><1><50><50>}} {attack}']
    attach(page, scene_file)
    ask(page, f"{attack} javascript:window.__xss=1 <p>'{attack}</p>{{<1><1><50><50>}}")
    done(page, 1)
    expect(answers(page).locator(".mv-text")).to_contain_text("<img src=x onerror=window.__xss=1>")
    expect(page.locator(".mv-question .mv-text")).to_contain_text("<script>window.__xss=1</script>")
    page.locator(".mv-phrase").first.click()
    page.locator(".mv-details summary").click()
    assert page.locator(".mv-message img, .mv-message script, .mv-message iframe").count() == 0
    assert page.evaluate("window.__xss") is None


def test_errors_are_readable_and_lose_nothing(server: Server, quiet_page: Page, tmp_path: Path) -> None:
    page = quiet_page
    fake = tmp_path / "cat.png"
    fake.write_text("no cat", encoding="utf-8")
    question(page).fill("what is it?")
    page.locator("#mv-question input[type=file]").set_input_files(str(fake))
    expect(page.get_by_role("alert")).to_contain_text("cat.png is not an image")
    expect(page.locator("#mv-question .thumbnail-item")).to_have_count(0)
    expect(question(page)).to_have_value("what is it?")
    ask(page, "   ")
    expect(page.get_by_role("alert")).to_contain_text("Type a question first.")
    ask(page, "[refer] the dog")
    expect(page.get_by_role("alert")).to_contain_text("add one first")
    expect(question(page)).to_have_value("[refer] the dog")
    server.model.script = [NotEnoughMemory("No memory for this question. Ask a shorter one."), "better"]
    ask(page, "a long question")
    expect(answers(page).get_by_role("alert")).to_have_text("No memory for this question. Ask a shorter one.")
    expect(page.locator(".mv-question")).to_contain_text("a long question")
    page.get_by_role("button", name="Answer this question again").click()
    expect(answers(page)).to_contain_text("better")
    done(page, 1)


def test_a_server_that_was_restarted_says_so(server: Server, quiet_page: Page, scene_file: Path) -> None:
    page = quiet_page
    attach(page, scene_file)
    ask(page, "what is it?")
    done(page, 1)
    server.forget()
    ask(page, "which colour?")
    expect(page.get_by_role("alert")).to_contain_text("no longer kept by the server")
    expect(question(page)).to_have_value("which colour?")
    done(page, 1)  # what was said can still be read
    page.get_by_role("button", name="New chat").click()
    expect(answers(page)).to_have_count(0)
    expect(question(page)).to_have_value("which colour?")
    question(page).press("Enter")
    done(page, 1)
    assert [turn.text for turn in server.model.seen[-1]] == ["which colour?"]


def test_a_long_paste_stays_text_and_is_refused_as_a_question(server: Server, quiet_page: Page) -> None:
    page = quiet_page
    question(page).fill("")  # once it is there
    page.evaluate("""() => {
        const clipboardData = new DataTransfer();
        clipboardData.setData("text/plain", "z".repeat(25_000));
        const event = new ClipboardEvent("paste", { clipboardData, bubbles: true, cancelable: true });
        document.querySelector("#mv-question textarea").dispatchEvent(event);
    }""")
    question(page).fill("z" * 25_000)  # what the browser itself does with a paste that nobody takes
    question(page).press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("too long: 25000 characters")
    expect(page.locator("#mv-question .thumbnail-item")).to_have_count(0)


def test_a_tab_closed_before_it_could_hear_of_its_answer_frees_the_model(server: Server, browser: Browser) -> None:
    server.model.script, server.model.delay = ["word " * 10_000], 0.02
    context = browser.new_context()
    page = context.new_page()
    page.route("**/queue/data*", lambda _: None)  # as if the tab were closed before that request was sent
    page.goto(server.url)
    ask(page, "hello")
    assert eventually(lambda: server.model.open_streams == 1)
    context.close()
    assert eventually(lambda: server.model.open_streams == 0)
