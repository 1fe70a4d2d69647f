"""What a visitor does in a browser, for the tests of the page."""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import Locator, Page, expect

from tests.app.helpers import Server

expect.set_options(timeout=120_000)  # a busy machine is slow; nothing here waits for time to pass


def visit(page: Page, url: str) -> None:
    page.set_default_timeout(120_000)
    page.goto(url)


def question(page: Page) -> Locator:
    return page.locator("#mv-question textarea")


def attach(page: Page, *paths: Path) -> None:
    page.locator("#mv-question input[type=file]").set_input_files([str(path) for path in paths])
    expect(page.locator("#mv-question .thumbnail-item")).to_have_count(len(paths))


def ask(page: Page, text: str) -> None:
    question(page).fill(text)
    question(page).press("Enter")


def answers(page: Page) -> Locator:
    return page.locator(".mv-answer")


def done(page: Page, count: int) -> None:
    expect(page.locator('.mv-answer[data-state="done"]')).to_have_count(count)


def converse(page: Page, server: Server, picture: Path, text: str, *script: str) -> None:
    """A conversation about one picture: the same question for each of these answers."""
    server.model.script = list(script)
    attach(page, picture)
    for count in range(len(script)):
        ask(page, text)
        done(page, count + 1)
        expect(page.get_by_test_id("submit-button")).to_be_visible()


def on_picture(page: Page, x: float, y: float) -> tuple[float, float]:
    """Where a point of the picture on the stage, in fractions of it, lies in the window."""
    expect(page.locator(".mv-pixels")).to_be_visible()  # the server has to see it first
    frame = page.locator(".mv-pixels").bounding_box()
    assert frame is not None
    return frame["x"] + frame["width"] * x, frame["y"] + frame["height"] * y


def drag(page: Page, start: tuple[float, float], end: tuple[float, float]) -> None:
    """Press, move and release the mouse over the picture on the stage, from one point to another."""
    page.mouse.move(*on_picture(page, *start))
    page.mouse.down()
    page.mouse.move(*on_picture(page, *end), steps=8)
    page.mouse.up()


def pinch(page: Page, factor: float) -> None:
    """Two fingers on the middle of the picture move apart, until they are so many times as far from each other."""
    frame = page.locator(".mv-view").bounding_box()
    assert frame is not None
    x, y = frame["x"] + frame["width"] / 2, frame["y"] + frame["height"] / 2
    touch = page.context.new_cdp_session(page)
    for step in range(9):
        apart = 30 * (1 + (factor - 1) * step / 8)
        points = [{"x": x - apart, "y": y, "id": 0}, {"x": x + apart, "y": y, "id": 1}]
        kind = "touchMove" if step else "touchStart"
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
