"""`python -m tests.app.page.gallery FOLDER [STATE ...]`: pictures of every state of the page, to be looked at.

Each state is brought about by pressing and typing, with a scripted model, and taken in three windows, light and dark: a
file for each, and a sheet with all six. What axe finds serious, or what is wider than its window, is said.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from PIL import Image, ImageDraw
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from tests.app.page.axe import serious_findings
from tests.app.page.browsing import visit
from tests.app.page.gallery.site import Site, sites
from tests.app.page.gallery.states import STATES, State

DESKTOP: dict[str, Any] = {"viewport": {"width": 1280, "height": 900}}
PHONE: dict[str, Any] = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
WINDOWS: dict[str, dict[str, Any]] = {
    "390": PHONE,
    "1280": DESKTOP,
    "1920": {"viewport": {"width": 1920, "height": 1080}},
}
THEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
SHEET = {"1280-light": (0, 0, 853), "390-light": (863, 0, 277), "390-dark": (1150, 0, 277)} | {
    "1280-dark": (0, 610, 853),
    "1920-light": (863, 610, 564),
    "1920-dark": (863, 937, 564),
}  # left, top and width of each


def shot(page: Page, path: Path, state: State) -> None:
    if state.window:
        page.set_viewport_size({"width": state.window[0], "height": state.window[1]})
    page.wait_for_timeout(700)  # what moves has come to rest
    path.write_bytes(page.screenshot(full_page=state.is_long))


def faults(page: Page) -> list[str]:
    """What axe says, and whether the page is wider than its window."""
    found = serious_findings(page)
    if page.evaluate("document.documentElement.scrollWidth > innerWidth"):
        found.append("wider than its window")
    return found


def take(context: BrowserContext, name: str, site: Site, window: str, folder: Path) -> list[str]:
    """One state in one window (the desktop's in two), light and dark; what is wrong with it."""
    state, found = STATES[name], []
    page = context.new_page()
    visit(page, site.proxy.url if state.is_cut else site.url)
    shown = state.act(page, site, window == "390") or page
    for size in ("390",) if window == "390" else ("1280", "1920"):
        if not state.window:
            shown.set_viewport_size(WINDOWS[size]["viewport"])
        for theme in THEMES:
            shown.emulate_media(
                color_scheme=theme,
                media="print" if state.is_print else None,
                forced_colors="active" if state.is_forced else None,
                reduced_motion="reduce",
            )
            shown.evaluate(f"document.body.classList.toggle('dark', {str(theme == 'dark').lower()})")
            shot(shown, folder / f"{name}-{size}-{theme}.png", state)
            if size != "1920":  # where nothing is other than at 1280 but the room
                found += [f"{name}, {size}, {theme}: {one}" for one in faults(shown)]
    state.end(page, site)
    for tab in context.pages:
        if tab.url.startswith("http"):
            tab.evaluate("localStorage.clear()")
        tab.close()
    return found


def sheet(folder: Path, name: str) -> None:
    """All pictures of a state in one."""
    whole = Image.new("RGB", (1427, 1260), "#777777")
    for place, (left, top, width) in SHEET.items():
        one = Image.open(folder / f"{name}-{place}.png").convert("RGB")
        height = min(round(width * one.height / one.width), 640)
        one = one.crop((0, 0, one.width, round(height * one.width / width)))
        whole.paste(one.resize((width, height), Image.Resampling.LANCZOS), (left, top))
    ImageDraw.Draw(whole).text((1150, 1240), name, fill="white")
    whole.save(folder / f"sheet-{name}.png")


def pictures(browser: Browser, folder: Path, names: Sequence[str]) -> list[str]:
    """All states with these names, by file; what is wrong with them."""
    found: list[str] = []
    with sites() as all_sites:
        contexts = {window: browser.new_context(**options) for window, options in WINDOWS.items() if window != "1920"}
        for name in names:
            for window, context in contexts.items():
                found += take(context, name, all_sites[STATES[name].site], window, folder)
            sheet(folder, name)
            print(name, flush=True)
    return found


def main(argv: Sequence[str]) -> int:
    folder = Path(argv[0])
    folder.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        chromium = shutil.which("chromium") or shutil.which("google-chrome")
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        found = pictures(browser, folder, argv[1:] or list(STATES))
        browser.close()
    print("\n".join(found) or "nothing serious was found")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
