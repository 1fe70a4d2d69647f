"""The routing view in a real browser, over a tiny MoE-LLaVA and the real engine."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from models.extras import Extras
from tests.app.helpers import Serve
from tests.app.page.browsing import ask, attach, done, visit
from tests.fakes import INFO, TRACE, ScriptedModel
from tests.paths import GOLDENS
from tests.waiting import free_port

pytestmark = pytest.mark.browser
CASE = GOLDENS / "moe-llava-stablelm"


@pytest.fixture(scope="module")
def url(no_stray_event_loops: None) -> Iterator[str]:
    from app.page.components import build_demo
    from engine.chat_engine import ChatEngine
    from models.loader import load_model

    with ChatEngine(load_model(CASE / "config.yaml", device="cpu", report=None)) as engine:
        demo = build_demo(engine)
        _, address, _ = demo.launch(prevent_thread_lock=True, quiet=True, server_port=free_port())
        yield address
        demo.close(verbose=False)


def test_which_experts_an_answer_used(url: str, page: Page) -> None:
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    visit(page, url)
    attach(page, CASE / "image.png")
    ask(page, "How many shapes are there?")
    done(page, 1)
    expect(page.locator(".mv-routing")).to_have_count(0)
    expect(
        page.get_by_test_id("submit-button")
    ).to_be_visible()  # a click is lost if its button is drawn anew meanwhile
    page.get_by_role("button", name="Experts: which").click()
    layers = page.locator(".mv-routing-layer")
    expect(layers).to_have_count(2)
    assert layers.evaluate_all("nodes => nodes.map(node => node.dataset.layer)") == ["0", "2"]
    for place in (".mv-answer", ".mv-experts"):  # the stage has a copy beside the picture
        expect(page.locator(f"{place} .mv-routing-legend li")).to_have_count(4)
    expect(layers.nth(0).locator(".mv-patches")).to_be_hidden()
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


def test_a_model_with_experts_and_extras(serve: Serve, page: Page, scene_file: Path) -> None:
    model = ScriptedModel(info=replace(INFO, extras=Extras(), has_experts=True), trace=TRACE)
    visit(page, serve(model))
    expect(page.locator("#mv-ocr")).to_have_count(1)
    attach(page, scene_file)
    ask(page, "what is it?")
    done(page, 1)
    expect(page.get_by_test_id("submit-button")).to_be_visible()
    page.get_by_role("button", name="Experts: which").click()
    layers = page.locator(".mv-routing-layer")
    expect(layers).to_have_count(2)
    layers.first.locator("summary").click()
    expect(layers.first.locator(".mv-patches")).to_be_visible()
    expect(page.get_by_role("alert")).to_have_count(0)
    assert [answer for _, answer in model.traced] == [model.default]
    page.get_by_role("button", name="Hide experts").click()
    expect(layers).to_have_count(0)
