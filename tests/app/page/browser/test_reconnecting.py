"""A conversation survives what happens to a tab: a connection that is cut, a reload, the back button, a closed tab."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.app.helpers import Server
from tests.app.page.browser.proxy import Proxy
from tests.app.page.browsing import answers, ask, attach, done, question, visit
from tests.waiting import eventually

pytestmark = pytest.mark.browser

KEY = "minivlm-conversation"


def kept_key(page: Page) -> str:
    return str(page.evaluate(f"JSON.parse(sessionStorage.getItem('{KEY}'))"))


def test_a_second_without_network_during_an_answer_loses_nothing(server: Server, page: Page, scene_file: Path) -> None:
    model = server.model
    server.store.grace = 120
    with Proxy(server.url) as proxy:
        visit(page, proxy.url)
        attach(page, scene_file)
        ask(page, "what is it?")
        done(page, 1)
        model.script, model.gate = ["one two three four"], threading.Semaphore(2)
        ask(page, "count")
        expect(answers(page).last).to_contain_text("one two")
        question(page).fill("half a question")
        page.evaluate("window.isOldPage = true")
        proxy.cut()
        expect(page.locator("#mv-lines")).to_contain_text("The page comes back by itself")
        page.wait_for_timeout(1000)
        model.gate.release(1)  # the model does not know of it
        proxy.restore()
        page.wait_for_function("!window.isOldPage")  # gradio opens the page anew
        expect(answers(page)).to_have_count(2)
        expect(page.locator("#mv-lines p")).to_have_count(0)  # nothing was tried meanwhile
        expect(answers(page).last).to_contain_text("one two three")
        expect(answers(page).last).to_have_attribute("data-state", "running")
        expect(question(page)).to_have_value("half a question")
        expect(page.locator("#mv-question .stop-button")).to_be_visible()
        model.open_gate()
        done(page, 2)
        expect(answers(page).last).to_contain_text("one two three four")
        assert model.closed_early == 0
        question(page).press("Enter")
        done(page, 3)
        assert len(model.seen[-1]) == 5
        assert model.seen[-1][0].images[0].size == (200, 100)


def test_what_is_done_without_a_connection_is_not_lost_in_silence(server: Server, page: Page, scene_file: Path) -> None:
    model = server.model
    server.store.grace = 120
    with Proxy(server.url) as proxy:
        visit(page, proxy.url)
        attach(page, scene_file)
        model.script, model.gate = ["one two three four"], threading.Semaphore(2)
        ask(page, "count")
        expect(answers(page)).to_contain_text("one two")
        question(page).fill("which colour?")
        page.evaluate("window.isOldPage = true")
        proxy.cut()
        expect(page.locator("#mv-lines")).to_contain_text("The page comes back by itself")
        question(page).press("Enter")
        question(page).press_sequentially(" And how many?")
        proxy.restore()
        page.wait_for_function("!window.isOldPage")
        expect(page.locator("#mv-lines")).to_contain_text("has not reached the server: please do it again")
        model.open_gate()
        done(page, 1)
        expect(question(page)).to_have_value("which colour? And how many?")
        question(page).press("Enter")
        done(page, 2)
        expect(page.locator("#mv-lines p")).to_have_count(0)


def reload(page: Page) -> None:
    page.reload()


def leave_and_go_back(page: Page) -> None:
    page.goto("about:blank")
    page.go_back()


@pytest.mark.parametrize("gesture", [reload, leave_and_go_back])
def test_what_was_said_typed_and_set_is_there_again(
    server: Server, quiet_page: Page, scene_file: Path, tmp_path: Path, gesture: Callable[[Page], None]
) -> None:
    page = quiet_page
    attach(page, scene_file)
    ask(page, "what is it?")
    done(page, 1)
    page.get_by_role("button", name="Settings", exact=True).click()
    page.get_by_label("Seed").fill("42")
    page.get_by_label("Seed").press("Tab")
    page.get_by_role("button", name="Close settings").click()
    page.get_by_role("button", name="Switch light and dark").click()
    expect(page.locator("body")).to_contain_class("dark")
    question(page).fill("and what")
    attach(page, scene_file.rename(tmp_path / "other.png"))  # browsers don't tell of a file that was chosen before
    gesture(page)
    done(page, 1)
    expect(page.locator(".mv-question")).to_contain_text("what is it?")
    expect(page.locator("body")).to_contain_class("dark")
    expect(question(page)).to_have_value("and what")
    expect(page.locator("#mv-question .thumbnail-item img")).to_have_js_property("naturalWidth", 200)
    assert page.url == server.url  # nothing of it is in the address
    question(page).press("Enter")
    done(page, 2)
    assert server.model.samplings[-1].seed == 42
    assert [turn.text for turn in server.model.seen[-1]] == ["what is it?", server.model.default, "and what"]
    assert len(server.model.seen[-1][-1].images) == 1


def test_nobody_sees_a_conversation_without_its_key(server: Server, quiet_page: Page, browser: Browser) -> None:
    ask(quiet_page, "my secret")
    done(quiet_page, 1)
    key = kept_key(quiet_page)
    assert len(key) == 32
    context = browser.new_context()
    other = context.new_page()
    visit(other, server.url)
    for guess in (key[:-1], key.swapcase(), "", "../" + key):
        other.evaluate(f"key => sessionStorage.setItem('{KEY}', JSON.stringify(key))", guess)
        other.reload()
        if guess:
            expect(other.get_by_role("alert")).to_contain_text("no longer kept by the server")
        expect(question(other)).to_be_visible()
        expect(other.locator("body")).not_to_contain_text("my secret")
    context.close()


def test_a_conversation_that_is_lost_says_so_and_the_draft_is_not(server: Server, quiet_page: Page) -> None:
    page = quiet_page
    ask(page, "what is it?")
    done(page, 1)
    question(page).fill("which colour?")
    server.forget()
    page.reload()
    expect(page.get_by_role("alert")).to_contain_text("This conversation is no longer kept by the server")
    expect(question(page)).to_have_value("which colour?")
    expect(answers(page)).to_have_count(0)
    question(page).press("Enter")
    done(page, 1)
    expect(page.get_by_role("alert")).to_have_count(0)
    page.reload()
    done(page, 1)


def test_new_chat_is_new_after_a_reload_too(server: Server, quiet_page: Page) -> None:
    page = quiet_page
    ask(page, "what is it?")
    done(page, 1)
    key = kept_key(page)
    page.get_by_role("button", name="New chat").click()
    expect(answers(page)).to_have_count(0)
    assert server.store.get(key) is None
    page.reload()
    expect(page.locator("#mv-examples")).to_be_visible()
    expect(answers(page)).to_have_count(0)
    expect(page.get_by_role("alert")).to_have_count(0)


def test_an_answer_goes_on_after_a_reload_and_stop_still_stops_it(server: Server, quiet_page: Page) -> None:
    page, model = quiet_page, server.model
    server.store.grace = 120
    model.script, model.gate = ["one two three four"], threading.Semaphore(2)
    ask(page, "count")
    expect(answers(page)).to_contain_text("one two")
    page.reload()
    expect(answers(page)).to_contain_text("one two")
    page.locator("#mv-question .stop-button").click()
    expect(answers(page)).to_contain_text("Stopped.")
    expect(page.get_by_test_id("submit-button")).to_be_visible()
    model.open_gate()
    assert eventually(lambda: model.open_streams == 0)


def test_an_answer_that_nobody_watched_says_so_and_what_to_do(server: Server, quiet_page: Page) -> None:
    page, model = quiet_page, server.model
    model.script, model.delay = ["word " * 10_000], 0.02
    ask(page, "count")
    expect(answers(page)).to_contain_text("word word")
    page.goto("about:blank")  # the tab is elsewhere for longer than an answer goes on without it
    assert eventually(lambda: model.closed_early == 1)
    model.delay = 0
    page.go_back()
    expect(answers(page)).to_contain_text("word word")
    expect(answers(page).get_by_role("alert")).to_have_text(
        "No page had shown this answer for 0.5 seconds, so it was stopped. Press Retry to have it written anew."
    )
    expect(answers(page)).not_to_contain_text("Stopped.")
    answers(page).get_by_role("button", name="Retry").click()
    expect(answers(page)).to_contain_text("A red circle and a blue square.")
    expect(answers(page).get_by_role("alert")).to_have_count(0)


def test_another_tab_of_the_conversation_follows_it_and_leaves_it_alone(server: Server, quiet_page: Page) -> None:
    page, model = quiet_page, server.model
    ask(page, "hello")
    done(page, 1)
    second = page.context.new_page()
    visit(second, server.url)
    second.evaluate(f"key => sessionStorage.setItem('{KEY}', JSON.stringify(key))", kept_key(page))
    second.reload()  # as if the tab had been duplicated
    done(second, 1)
    model.script, model.gate = ["one two three four"], threading.Semaphore(2)
    ask(page, "count")
    expect(answers(page).last).to_contain_text("one two")
    expect(answers(second).last).to_contain_text("one two")  # which follows the first, without a reload
    second.close()
    page.wait_for_timeout(1500)  # three times as long as an answer is let go on without a page
    model.open_gate()
    done(page, 2)
    assert model.closed_early == 0
