"""Compare: two answers side by side, by the keyboard on a wide page and by touch on a phone."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from app.chat.feedback import FeedbackFile
from app.library.library import ModelLibrary
from app.page.components import build_demo
from tests.app.library.fake_loader import FakeLoader, offer, scripted
from tests.app.page.axe import serious_findings
from tests.app.page.browsing import answers, ask, attach, done, question, visit
from tests.fakes import INFO, ScriptedModel
from tests.waiting import eventually, free_port

pytestmark = pytest.mark.browser

LEFT = "<p>circle</p> {<10><20><45><60>} and <p>square</p> {<60><30><90><90>}"
RIGHT = "<p>disc</p> {<11><20><45><60>} and <p>bird</p> {<2><70><20><95>}"
DIFFERENCE = "Boxes: 1 in both, 1 only left, 1 only right. What only one of them found is drawn bold."


@dataclass
class Served:
    """The page, its models and the file of votes."""

    url: str
    library: ModelLibrary
    feedback: Path

    @property
    def models(self) -> tuple[ScriptedModel, ScriptedModel]:
        return scripted(self.library, "first"), scripted(self.library, "second")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, no_stray_event_loops: None) -> Iterator[Served]:
    file = tmp_path_factory.mktemp("votes") / "kept.jsonl"
    loader = FakeLoader(infos={"second": replace(INFO, name="Second")})
    with ModelLibrary([offer("first"), offer("second"), offer("away", problem="Not here: x.")], loader) as library:
        library.load("first")
        demo = build_demo(library.model("first"), library=library, feedback=FeedbackFile(file))
        _, url, _ = demo.launch(prevent_thread_lock=True, quiet=True, server_port=free_port())
        yield Served(url, library, file)
        demo.close(verbose=False)


def pair_is_done(page: Page, count: int) -> None:
    expect(page.locator('.mv-verdict[data-state="done"]')).to_have_count(count)


def test_two_models_side_by_side(served: Served, page: Page, scene_file: Path, tmp_path: Path) -> None:
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.set_viewport_size({"width": 1280, "height": 900})
    page.emulate_media(reduced_motion="reduce")
    visit(page, served.url)
    attach(page, scene_file)
    page.locator(".mv-compare-button").focus()
    page.keyboard.press("Enter")
    expect(page.locator(".mv-compare-button")).to_have_attribute("aria-pressed", "true")
    page.get_by_label("Right answer by").select_option("second")
    expect(page.locator(".mv-rival details")).not_to_have_attribute("open", "")  # another model: it has come
    expect(page.get_by_label("Right answer by")).to_have_value("second")
    models = served.models
    both_stream_and_stop(page, models)
    both_are_compared(page, models)
    page.screenshot(path=tmp_path / "compare-1280.png")
    for theme in ("dark", "light"):
        page.evaluate(f"document.body.classList.toggle('dark', {str(theme == 'dark').lower()})")
        assert serious_findings(page) == [], theme
        page.screenshot(path=tmp_path / f"compare-{theme}.png")
    a_vote_is_kept(page, served)
    page.get_by_role("button", name="Go on with this one").last.focus()
    page.keyboard.press("Enter")
    expect(answers(page).last.locator(".mv-chosen")).to_be_visible()
    page.reload()
    pair_is_done(page, 2)
    expect(page.locator(".mv-compare-button")).to_have_attribute("aria-pressed", "true")
    expect(page.locator('.mv-vote[aria-pressed="true"]')).to_have_text("Right is better")
    page.get_by_role("button", name="End the comparison").click()
    expect(page.locator(".mv-rival")).to_be_hidden()
    ask(page, "and now?")
    expect(page.locator('.mv-answer[data-state="done"]')).to_have_count(5)
    assert [turn.text for turn in models[0].seen[-1]][-2:] == [RIGHT, "and now?"]
    page.emulate_media(media="print")
    expect(answers(page).nth(2)).to_be_visible()
    expect(page.locator(".mv-difference")).to_be_visible()
    assert errors == []


def both_stream_and_stop(page: Page, models: tuple[ScriptedModel, ScriptedModel]) -> None:
    """Words of both come at the same time, and Stop ends both."""
    for model, text in zip(models, ("one two three", "four five six"), strict=True):
        model.script, model.gate = [text], threading.Semaphore(2)
    ask(page, "[detection] thing")
    expect(answers(page).locator(".mv-text")).to_have_text(["one two", "four five"])
    expect(page.locator('.mv-answer[data-state="running"]')).to_have_count(2)
    left, right = (answers(page).nth(place).bounding_box() for place in (0, 1))
    assert left is not None
    assert right is not None
    assert left["x"] + left["width"] <= right["x"]
    assert left["y"] == right["y"]
    page.locator("#mv-question .stop-button").click()
    done(page, 2)
    for model in models:
        model.open_gate()
    assert eventually(lambda: all(model.open_streams == 0 for model in models))
    for model in models:
        model.gate = None


def both_are_compared(page: Page, models: tuple[ScriptedModel, ScriptedModel]) -> None:
    """What one alone found is bold, in its own bubble and on the stage, which has the boxes of both."""
    models[0].script, models[1].script = [LEFT], [RIGHT]
    ask(page, "[detection] thing")
    pair_is_done(page, 2)
    expect(page.locator(".mv-difference")).to_have_text(DIFFERENCE)
    expect(answers(page).locator(".mv-by").last).to_have_text("Right · Second")
    expect(page.locator(".mv-mark.mv-bold:not(.mv-other)")).to_have_count(1)
    expect(page.locator(".mv-mark.mv-quiet:not(.mv-other)")).to_have_count(1)
    expect(page.locator(".mv-mark.mv-bold.mv-other")).to_have_count(1)
    expect(page.locator(".mv-mark.mv-quiet.mv-other")).to_have_count(0)  # one is enough of what both found
    expect(page.locator(".mv-compare .mv-note")).to_have_text(f"{DIFFERENCE} Dashed is the other answer.")
    answers(page).last.locator(".mv-by").click()
    expect(page.locator(".mv-which")).to_have_text("Answer 2, right")


def a_vote_is_kept(page: Page, served: Served) -> None:
    page.get_by_role("button", name="Right is better").last.focus()
    page.keyboard.press("Space")
    expect(page.get_by_role("button", name="Right is better").last).to_have_attribute("aria-pressed", "true")
    kept = json.loads(served.feedback.read_text().splitlines()[-1])
    assert (kept["kind"], kept["vote"], kept["model"]) == ("vote", "right", ["First", "Second"])
    assert kept["answer"] == [LEFT, RIGHT]


def test_one_below_the_other_on_a_phone(served: Served, phone: Page, scene_file: Path, tmp_path: Path) -> None:
    page = phone
    visit(page, served.url)
    attach(page, scene_file)
    expect(page.locator(".mv-compare-button")).to_be_hidden()
    page.locator(".mv-menu summary").tap()
    page.get_by_role("button", name="Compare two answers").tap()
    expect(page.locator(".mv-rival")).to_be_visible()
    page.get_by_label("Right answer by").select_option("first")
    page.get_by_label("Temperature").last.fill("0")
    page.get_by_label("Temperature").last.blur()
    expect(page.locator("#mv-notice")).to_be_empty()
    model = scripted(served.library, "first")
    model.script, model.samplings = [LEFT, RIGHT], []
    question(page).fill("[detection] thing")
    page.locator("#mv-question .submit-button").tap()
    pair_is_done(page, 1)
    assert sorted(one.temperature for one in model.samplings) == [0, 0.6]
    expect(answers(page).locator(".mv-by").last).to_contain_text("Right · First · greedy")
    left, right = (answers(page).nth(place).bounding_box() for place in (0, 1))
    assert left is not None
    assert right is not None
    assert left["y"] + left["height"] <= right["y"]
    for target in page.locator(".mv-vote, .mv-go-on, .mv-rival :is(select, input, summary, button)").all():
        if target.is_visible():
            box = target.bounding_box()
            assert box is not None
            assert box["height"] >= 44, target.evaluate("(node) => node.outerHTML")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    header = page.locator(".mv-header").bounding_box()
    assert header is not None
    assert header["y"] >= 0  # the bar leaves room for the rest
    page.screenshot(path=tmp_path / "compare-390.png")
    assert serious_findings(page) == []
