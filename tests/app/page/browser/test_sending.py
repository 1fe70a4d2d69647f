"""Between Enter and the answer, and questions that replace others."""

from __future__ import annotations

import threading

import pytest
from playwright.sync_api import Page, Route, expect

from tests.app.helpers import Server
from tests.app.page.browsing import answers, ask, done, question

pytestmark = pytest.mark.browser


def test_a_question_is_shown_before_the_server_has_heard_of_it(server: Server, quiet_page: Page) -> None:
    page = quiet_page
    ask(page, "hello")
    done(page, 1)
    held: list[Route] = []
    page.route("**/queue/join*", lambda route: held.append(route))
    ask(page, "is anybody there?")
    expect(page.locator(".mv-pending")).to_contain_text("is anybody there?")
    expect(page.locator(".mv-pending .mv-thinking")).to_be_in_viewport()
    page.wait_for_timeout(500)
    expect(page.locator(".mv-pending .mv-thinking")).to_be_in_viewport()
    for route in held:
        route.continue_()
    page.unroute("**/queue/join*")
    done(page, 2)
    expect(page.locator(".mv-pending")).to_have_count(0)
    expect(page.locator(".mv-question")).to_have_count(2)


def test_an_example_is_shown_before_the_server_has_heard_of_it(server: Server, quiet_page: Page) -> None:
    page = quiet_page
    held: list[Route] = []
    page.route("**/queue/join*", lambda route: held.append(route))
    page.locator(".mv-card").click()
    expect(page.locator(".mv-pending")).to_contain_text("[detection] red circle")
    expect(page.locator(".mv-pending img")).to_be_visible()
    for route in held:
        route.continue_()
    page.unroute("**/queue/join*")
    done(page, 1)
    expect(page.locator(".mv-pending")).to_have_count(0)


def test_a_question_that_is_refused_is_shown_no_longer(server: Server, quiet_page: Page) -> None:
    page = quiet_page
    for _ in range(2):
        ask(page, "[refer] the dog")
        expect(page.locator("#mv-notice [role=alert]")).to_be_visible()
        expect(page.locator(".mv-pending")).to_have_count(0)
        page.keyboard.type("s")


def test_an_edit_keeps_what_it_replaces(server: Server, quiet_page: Page) -> None:
    page = quiet_page
    server.model.default = "line\n" * 15
    for count in range(1, 4):
        ask(page, f"question {count}")
        done(page, count)
    first = page.locator(".mv-question").first
    text = first.locator(".mv-text")
    first.get_by_role("button", name="Edit this question").focus()
    page.keyboard.press("Enter")
    expect(question(page)).to_have_value("question 1")
    expect(page.locator("#mv-notice")).to_contain_text("Editing question 1")
    page.wait_for_timeout(500)
    expect(text).to_be_in_viewport(ratio=0.9)
    question(page).press("Escape")
    expect(page.locator("#mv-notice p")).to_have_count(0)
    expect(first).to_be_in_viewport()
    first.get_by_role("button", name="Edit this question").click()
    expect(question(page)).to_have_value("question 1")
    ask(page, "another question")
    done(page, 1)
    expect(page.locator(".mv-branch")).to_contain_text("2 of 2")
    page.get_by_role("button", name="Version before this one").click()
    done(page, 3)
    expect(page.locator(".mv-branch")).to_contain_text("1 of 2")
    expect(page.locator(".mv-question").first).to_be_in_viewport()
    ask(page, "question 4")
    done(page, 4)
    assert [turn.text for turn in server.model.seen[-1] if turn.role == "user"] == [
        f"question {i}" for i in (1, 2, 3, 4)
    ]


def test_escape_stops_an_answer_before_it_cancels_anything(server: Server, quiet_page: Page) -> None:
    page, model = quiet_page, server.model
    model.script, model.gate = ["one two three"], threading.Semaphore(1)
    ask(page, "count")
    expect(answers(page)).to_contain_text("one")
    page.keyboard.press("Escape")
    expect(answers(page)).to_contain_text("Stopped.")
    model.open_gate()
