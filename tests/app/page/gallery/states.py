"""The states of the page that the gallery takes pictures of: what is done for each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import gettempdir

from playwright.sync_api import Page, expect

from app.page.examples import FOLDER
from tests.app.page.browsing import answers, ask, attach, done, drag, question
from tests.app.page.gallery.site import SLOWLY, WAITING, Site

STARS, CAT = FOLDER / "stars_and_rings.png", FOLDER / "cat.png"
Act = Callable[[Page, Site, bool], Page | None]


def _stop(page: Page, site: Site) -> None:
    """Whatever is still being answered."""
    stop = page.locator("#mv-question .stop-button")
    if stop.is_visible():
        stop.click()


@dataclass(frozen=True)
class State:
    """`act(page, site, is_phone)` brings it about, and gives the tab that shows it where that is another one."""

    act: Act
    site: str = "single"
    window: tuple[int, int] | None = None  # instead of the usual ones
    is_long: bool = False  # all of the page is taken, and not only the window
    is_cut: bool = False
    is_print: bool = False
    is_forced: bool = False
    end: Callable[[Page, Site], None] = _stop


def told(*questions: str, picture: Path | None = STARS) -> Act:
    """A conversation about a picture, all answers there."""

    def act(page: Page, site: Site, is_phone: bool) -> None:
        expect(question(page)).to_be_visible()
        if picture is not None:
            attach(page, picture)
        for count, text in enumerate(questions, start=1):
            ask(page, text)
            if text in (SLOWLY, WAITING):
                expect(answers(page).last).to_have_attribute("data-state", "running")
            elif text == "too much":
                expect(answers(page).get_by_role("alert")).to_be_visible()
            else:
                done(page, count)
        page.mouse.move(2, 2)

    return act


GROUND = "[grounding] describe this image in detail"
grounded = told(GROUND)


def then(first: Act, *steps: Callable[[Page, bool], Page | None]) -> Act:
    """Something, and more after it."""

    def act(page: Page, site: Site, is_phone: bool) -> Page | None:
        shown = first(page, site, is_phone)
        for step in steps:
            shown = step(page, is_phone) or shown
        return shown

    return act


def press(*selectors: str) -> Callable[[Page, bool], None]:
    def step(page: Page, is_phone: bool) -> None:
        for selector in selectors:
            page.locator(selector).first.press("Enter")

    return step


def example(page: Page, site: Site, is_phone: bool) -> None:
    page.locator(".mv-card").first.click()
    done(page, 1)


def draw(page: Page, is_phone: bool) -> None:
    if is_phone:
        page.locator('[data-stage="full"]').tap()
    page.locator('[data-stage="draw"]').click()
    drag(page, (0.37, 0.45), (0.64, 0.72))
    expect(page.locator(".mv-box-menu")).to_be_visible()


def clear_menu(page: Page, is_phone: bool) -> None:
    page.keyboard.press("Escape")


def another_picture(page: Page, is_phone: bool) -> None:
    attach(page, CAT)
    ask(page, "describe it")
    done(page, 2)


def branch(page: Page, is_phone: bool) -> None:
    page.get_by_role("button", name="Edit this question").first.press("Enter")
    expect(question(page)).to_have_value(GROUND)
    ask(page, "describe it")
    expect(page.locator(".mv-branch")).to_be_visible()
    done(page, 1)


def cut(page: Page, site: Site, is_phone: bool) -> None:
    told(GROUND, SLOWLY)(page, site, is_phone)
    site.proxy.cut()
    expect(page.locator("#mv-lines")).to_contain_text("The page comes back by itself")


def restore(page: Page, site: Site) -> None:
    page.evaluate("window.isOldPage = true")
    site.proxy.restore()
    page.wait_for_function("!window.isOldPage")  # gradio opens the page anew
    expect(answers(page)).to_have_count(2)
    _stop(page, site)


def experts(page: Page, is_phone: bool) -> None:
    page.locator(".mv-picker > summary").press("Enter")
    page.locator('[data-model="two"]').press("Enter")
    expect(page.locator(".mv-model")).to_have_text("Tiny MoE-LLaVA")
    attach(page, STARS)
    ask(page, "describe it")
    done(page, 1)
    page.get_by_role("button", name="Experts: which").press("Enter")
    page.locator(".mv-experts").wait_for(state="attached")


def nothing(page: Page, site: Site, is_phone: bool) -> None:
    expect(question(page)).to_be_visible()


def compare(page: Page, is_phone: bool) -> None:
    if is_phone:
        page.locator(".mv-menu summary").tap()
        page.get_by_role("button", name="Compare two answers").tap()
    else:
        page.locator(".mv-compare-button").press("Enter")
    page.get_by_label("Right answer by").select_option("one")
    page.get_by_label("Temperature").last.fill("0")
    page.get_by_label("Temperature").last.press("Tab")
    attach(page, STARS)
    ask(page, GROUND)
    expect(page.locator('.mv-verdict[data-state="done"]')).to_have_count(1)


def vote(page: Page, is_phone: bool) -> None:
    page.get_by_role("button", name="Right is better").last.press("Enter")
    expect(page.locator('.mv-vote[aria-pressed="true"]')).to_have_count(1)


def saved(page: Page, is_phone: bool) -> Page:
    page.locator(".mv-menu summary").press("Enter")
    with page.expect_download() as download:
        page.get_by_role("button", name="Save as a page").click()
    path = Path(gettempdir()) / download.value.suggested_filename
    download.value.save_as(path)
    other = page.context.new_page()
    other.goto(path.as_uri())
    return other


def refused(page: Page, is_phone: bool) -> None:
    ask(page, "[identify] what is this")
    expect(page.get_by_role("alert")).to_be_visible()


def keys(page: Page, is_phone: bool) -> None:
    page.locator(".mv-view").press("?")
    expect(page.get_by_role("dialog")).to_be_visible()


STATES: dict[str, State] = {
    "empty": State(nothing),
    "attached": State(then(nothing, lambda page, is_phone: attach(page, STARS))),
    "example": State(example),
    "streaming": State(told(SLOWLY)),
    "queued": State(told("describe it", WAITING)),
    "boxes": State(grounded),
    "many-boxes": State(told("[detection] everything")),
    "two-pictures": State(then(told("describe it"), another_picture)),
    "box-menu": State(then(grounded, draw)),
    "box-drawn": State(then(grounded, draw, clear_menu)),
    "edit": State(then(told(GROUND, "describe it"), press('[data-action="edit"]'))),
    "branches": State(then(grounded, branch)),
    "error": State(told("describe it", "too much")),
    "refused": State(then(nothing, refused)),
    "lost-connection": State(cut, is_cut=True, end=restore),
    "long-chat": State(told(*["describe it"] * 10)),
    "experts": State(then(nothing, experts), site="several"),
    "picker": State(then(nothing, press(".mv-picker > summary")), site="several"),
    "compare": State(then(nothing, compare), site="several"),
    "vote": State(then(nothing, compare, vote), site="several"),
    "settings": State(then(grounded, press('[data-action="settings"]'))),
    "keys": State(then(grounded, keys)),
    "code": State(then(grounded, press("[data-code]"))),
    "saved": State(then(told(GROUND, "make a table"), saved), is_long=True),
    "print": State(told(GROUND, "make a table"), is_print=True, is_long=True),
    "forced-colours": State(grounded, is_forced=True),
    "magnified": State(grounded, window=(320, 256)),
    "arabic": State(told("ماذا ترى في الصورة؟")),
    "markdown": State(told("make a table")),
    "details": State(then(grounded, press(".mv-answer summary"))),
}
