"""The routing view in a real browser, over a tiny MoE-LLaVA and the real engine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.app.conftest import free_port

pytestmark = pytest.mark.browser
expect.set_options(timeout=30_000)

CASE = Path(__file__).resolve().parents[1] / "goldens" / "moe-llava-stablelm"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    from app.engine import ChatEngine
    from app.ui import build_demo
    from models.loader import load_model

    with ChatEngine(load_model(CASE / "config.yaml", device="cpu", report=lambda _: None)) as engine:
        demo = build_demo(engine)
        _, address, _ = demo.launch(prevent_thread_lock=True, quiet=True, server_port=free_port())
        yield address
        demo.close(verbose=False)


def test_which_experts_an_answer_used(url: str, page: Page) -> None:
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.set_default_timeout(30_000)
    page.goto(url)
    page.locator("#mv-question input[type=file]").set_input_files(str(CASE / "image.png"))
    expect(page.locator("#mv-question .thumbnail-item")).to_have_count(1)
    page.locator("#mv-question textarea").fill("How many shapes are there?")
    page.locator("#mv-question textarea").press("Enter")
    expect(page.locator('.mv-answer[data-state="done"]')).to_have_count(1)
    expect(page.locator(".mv-routing")).to_have_count(0)
    expect(
        page.get_by_test_id("submit-button")
    ).to_be_visible()  # a click is lost if its button is drawn anew meanwhile
    page.get_by_role("button", name="Experts: which").click()
    layers = page.locator(".mv-routing-layer")
    expect(layers).to_have_count(2)
    assert layers.evaluate_all("nodes => nodes.map(node => node.dataset.layer)") == ["0", "2"]
    expect(page.locator(".mv-routing-legend li")).to_have_count(4)
    expect(page.locator(".mv-patches").first).to_be_hidden()
    layers.nth(1).locator("summary").focus()  # the keyboard opens a layer as the mouse does
    page.keyboard.press("Enter")
    expect(layers.nth(1).locator(".mv-patches")).to_be_visible()
    layers.nth(0).locator("summary").click()
    expect(layers.nth(0).locator(".mv-patches")).to_be_visible()
    expect(layers.nth(1).locator(".mv-patches")).to_be_hidden()
    picture = layers.nth(0).locator("svg use").bounding_box()
    tint = layers.nth(0).locator(".mv-patches").bounding_box()
    assert picture is not None
    assert tint is not None
    assert tint["width"] >= picture["width"] - 1  # the padded square covers the picture
    assert tint["height"] >= picture["height"] - 1
    expect(layers.nth(0).locator("table")).to_contain_text("Image, first choice")
    page.get_by_role("button", name="Hide experts").click()
    expect(layers).to_have_count(0)
    assert errors == []
