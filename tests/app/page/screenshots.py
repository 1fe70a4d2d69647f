"""`python -m tests.app.page.screenshots`: makes the pictures in docs/screenshots/ again, with the bundled models.

Answers are greedy, so the pictures change only with the page, the models and the browser's fonts.
"""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from benchmarks.soak_http import served
from tests.app.page.browsing import done, visit
from tests.paths import ROOT

FOLDER = ROOT / "docs" / "screenshots"
MOST_BYTES = 150_000
WIDE = {"viewport": {"width": 1280, "height": 900}}
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}


def example(page: Page, index: int) -> None:
    page.locator(".mv-card").nth(index).click()
    done(page, 1)
    page.mouse.move(2, 2)  # what is under the mouse is lit up


def answer(page: Page) -> None:
    """A picture that is described, every phrase with its box."""
    example(page, 0)


def box(page: Page) -> None:
    """A box that was drawn, with what can be done with it."""
    example(page, 0)
    page.locator('[data-stage="draw"]').click()
    frame = page.locator(".mv-pixels").bounding_box()
    assert frame is not None
    page.mouse.move(frame["x"] + 0.37 * frame["width"], frame["y"] + 0.45 * frame["height"])
    page.mouse.down()
    page.mouse.move(frame["x"] + 0.64 * frame["width"], frame["y"] + 0.72 * frame["height"], steps=8)
    page.mouse.up()


def experts(page: Page) -> None:
    """Which expert of a mixture each part of the picture went to."""
    example(page, 0)
    page.get_by_role("button", name="Experts: which").click()
    page.locator(".mv-experts").wait_for()


def phone(page: Page) -> None:
    """The strip with the picture, and the answer's words."""
    example(page, 0)
    page.locator(".mv-answer .mv-text").evaluate("text => text.scrollIntoView({ block: 'start' })")


class Shot(NamedTuple):
    """What is done on the page of a configuration, in which window and theme."""

    config: str
    window: dict[str, Any]
    theme: Literal["light", "dark"]
    act: Callable[[Page], None]


SHOTS = {
    "answer": Shot("tiny_minigpt_v2", WIDE, "light", answer),
    "box": Shot("tiny_minigpt_v2", WIDE, "dark", box),
    "experts": Shot("tiny_moe_llava", WIDE, "light", experts),
    "phone": Shot("tiny_minigpt_v2", PHONE, "dark", phone),
}


def small(png: bytes) -> bytes:
    """The picture with a palette, which is a third of the bytes and looks the same."""
    buffer = io.BytesIO()
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    picture.quantize(256, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def take(browser: Browser, url: str, shot: Shot) -> bytes:
    context = browser.new_context(color_scheme=shot.theme, reduced_motion="reduce", **shot.window)
    page = context.new_page()
    visit(page, url)
    shot.act(page)
    page.wait_for_timeout(1500)  # what comes by itself has come
    png = page.screenshot()
    context.close()
    return small(png)


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        chromium = shutil.which("chromium") or shutil.which("google-chrome")
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        for config in dict.fromkeys(shot.config for shot in SHOTS.values()):
            with served(ROOT / "eval_configs" / f"{config}.yaml") as (url, _):
                for name, shot in SHOTS.items():
                    if shot.config == config:
                        png = take(browser, url, shot)
                        assert len(png) <= MOST_BYTES, f"{name} takes {len(png)} bytes"
                        (FOLDER / f"{name}.png").write_bytes(png)
        browser.close()


if __name__ == "__main__":
    main()
