"""OCR and drawn pictures in a real browser: a scripted Mini-Gemini and OCR, and a real, tiny pipeline that draws."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, expect

from app.extras.extended_model import with_extras
from app.extras.image_generation import ImageGenerator
from app.extras.ocr import TextReader
from models.extras import Extras
from models.formats.llava import LLAVA_TASKS
from tests.app.extras.tiny_pipeline import needs_diffusers, write_pipeline
from tests.app.helpers import Serve
from tests.app.page.browsing import answers, ask, attach, done, visit
from tests.fakes import INFO, ScriptedModel

pytestmark = [
    pytest.mark.browser,
    pytest.mark.filterwarnings("ignore"),  # what diffusers itself brings up while it is imported and loads
]

DRAWN = "Look: <h>a calm lake</h> Nice."


def mini_gemini(*script: str, **offered: object) -> ScriptedModel:
    info = replace(INFO, is_toy=False, tasks=LLAVA_TASKS, extras=Extras(**offered))  # type: ignore[arg-type]
    return ScriptedModel(info=info, script=list(script))


def switch(page: Page, name: str, *, on: bool) -> None:
    page.get_by_role("button", name="Settings", exact=True).click()
    page.get_by_label(name).set_checked(on)
    page.get_by_role("button", name="Close settings").click()
    expect(page.get_by_label(name)).to_be_hidden()


def answer_to(page: Page, text: str, count: int) -> Locator:
    """Asks, and gives the answer once it is whole; `count` answers are there then."""
    ask(page, text)
    done(page, count)
    return answers(page).nth(count - 1)


class Found:
    """What OCR gives for any picture."""

    txts, scores = ("EXIT 42", "blurry"), (0.9, 0.05)


def test_the_switch_for_text_in_images(
    serve: Serve, page: Page, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("app.extras.ocr.load_engine", lambda: lambda _: Found())
    Image.new("RGB", (60, 20), "white").save(tmp_path / "sign.png")
    model = mini_gemini("A sign.", "To the exit.", "Still a sign.")
    visit(page, serve(with_extras(model)))
    attach(page, tmp_path / "sign.png")
    expect(answer_to(page, "What is it?", 1)).not_to_contain_text("Text read")
    assert model.last_question() == "What is it?"  # off until it is switched on
    switch(page, "Read text (OCR)", on=True)
    expect(answer_to(page, "Where to?", 2)).to_contain_text("Text read in the image: EXIT 42")
    assert model.last_question() == "Where to?\nReference OCR Token: EXIT 42\n"
    expect(page.locator(".mv-question").nth(1)).not_to_contain_text("Reference OCR")
    switch(page, "Read text (OCR)", on=False)
    expect(answer_to(page, "What is it?", 3)).not_to_contain_text("Text read")
    # An earlier question keeps what was read for it.
    assert [turn.text for turn in model.seen[-1] if turn.role == "user"] == [
        "What is it?",
        "Where to?\nReference OCR Token: EXIT 42\n",
        "What is it?",
    ]


@needs_diffusers
def test_a_picture_is_drawn_shown_and_saved(serve: Serve, page: Page, tmp_path: Path) -> None:
    model = mini_gemini(DRAWN, "No.", image_generator=str(write_pipeline(tmp_path)))
    visit(page, serve(with_extras(model)))
    switch(page, "Draw a picture", on=True)
    answer = answer_to(page, "Show me a lake.", 1)
    assert model.last_question() == "Show me a lake. <GEN>"
    expect(answer.locator(".mv-text")).to_have_text("Look:\n\nPicture: a calm lake\n\nNice.")
    picture = answer.get_by_role("img", name="Drawn picture: a calm lake")
    expect(picture).to_be_visible()
    with page.expect_download() as download:
        answer.get_by_role("button", name="Save picture").click()
    assert download.value.suggested_filename == "scripted-model_show-me-a-lake_drawn.png"
    saved = np.array(Image.open(download.value.path()).convert("RGB"))
    assert saved.shape == (16, 16, 3)
    assert saved.std() > 0
    # Nothing to draw is said, and the first picture stays.
    expect(answer_to(page, "Another one.", 2)).to_contain_text("described no picture")
    expect(picture).to_be_visible()


def test_without_the_extras_the_page_says_what_to_install(
    serve: Serve, browser: Browser, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """On a phone, in the dark: nothing is wider than the screen."""
    monkeypatch.setattr(ImageGenerator, "is_installed", lambda: False)
    monkeypatch.setattr(TextReader, "is_installed", lambda: False)
    Image.new("RGB", (64, 48), "teal").save(tmp_path / "teal.png")
    context = browser.new_context(viewport={"width": 390, "height": 844}, is_mobile=True, has_touch=True)
    page = context.new_page()
    visit(page, serve(with_extras(mini_gemini(DRAWN, "never asked"))) + "?__theme=dark")
    page.get_by_role("button", name="Settings", exact=True).tap()
    expect(page.locator("#mv-generate")).to_contain_text(
        'not installed, so the description is shown: pip install -e ".'
    )
    page.get_by_label("Draw a picture").check()
    page.get_by_role("button", name="Close settings").tap()
    answer = answer_to(page, "Show me a lake.", 1)
    expect(answer).to_contain_text("Picture: a calm lake")
    expect(answer).to_contain_text('To have it drawn, install diffusers: pip install -e ".[generate]"')
    expect(answer.get_by_role("img")).to_have_count(0)
    page.get_by_role("button", name="Settings", exact=True).tap()
    page.get_by_label("Read text (OCR)").check()
    page.get_by_role("button", name="Close settings").tap()
    attach(page, tmp_path / "teal.png")
    ask(page, "What is it?")
    expect(page.get_by_role("alert")).to_contain_text('RapidOCR, which is not installed: pip install -e ".[ocr]"')
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    context.close()
