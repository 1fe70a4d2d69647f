"""HTML that grows in the browser: it becomes what it should, and of a long answer only the end is touched."""

from __future__ import annotations

import random
from itertools import accumulate

import pytest
from playwright.sync_api import Page

from app.chat.regions import entities_of, parse_answer
from app.page.boxes.figures import picture_figure
from app.page.boxes.labels import Labels
from app.page.components import SCRIPT_FOLDER
from app.page.text.markup import GrowingAnswer
from tests.app.helpers import picture
from tests.app.page.speed import SHAPES, growing
from tests.app.page.text.tokens import TOKENS

pytestmark = pytest.mark.browser

# Gives what went wrong, or of the second half of the texts the most characters that were parsed and nodes that came.
GROW = """texts => {
    const { grow, nodesOf } = minivlm.growing;
    const part = { html: texts[0], nodes: nodesOf(texts[0]) };
    document.body.replaceChildren(...part.nodes);
    const { get, set } = Object.getOwnPropertyDescriptor(Element.prototype, "innerHTML");
    let parsed = 0;
    Object.defineProperty(Element.prototype, "innerHTML", {
        configurable: true, get, set(html) { parsed += html.length; set.call(this, html); },
    });
    const observer = new MutationObserver(() => {});
    observer.observe(document.body, { subtree: true, childList: true, attributes: true, characterData: true });
    const most = { parsed: 0, touched: 0 };
    let wrong = "";
    texts.slice(1).forEach((html, index) => {
        parsed = 0;
        if (html !== part.html) grow(part, html);
        part.html = html;
        const touched = observer.takeRecords().reduce((sum, { addedNodes }) => sum + 1 + addedNodes.length, 0);
        if (index > texts.length / 2) {
            most.parsed = Math.max(parsed, most.parsed);
            most.touched = Math.max(touched, most.touched);
        }
        const { outerHTML } = part.nodes[0];
        if (!wrong && outerHTML !== nodesOf(html)[0].outerHTML) wrong = `${html}\\nbecame\\n${outerHTML}`;
    });
    Object.defineProperty(Element.prototype, "innerHTML", { configurable: true, get, set });
    return wrong || most;
}"""


@pytest.fixture
def blank(page: Page) -> Page:
    """A page with nothing but the scripts."""
    for name in ("phrases.js", "growing.js"):
        page.add_script_tag(path=SCRIPT_FOLDER / name)
    return page


def bodies(texts: list[str]) -> list[str]:
    """The text of an answer in its bubble, after each of these texts."""
    answer = GrowingAnswer()
    caret = '<span class="mv-caret" aria-hidden="true"></span>'
    steps = [answer.pieces(text, unfinished=True, caret=caret)[0] for text in texts]
    steps.append(answer.pieces(texts[-1])[0])
    return [f'<div class="mv-text" dir="auto">{"".join(step)}</div>' for step in steps]


def test_whatever_grows_becomes_what_it_should(blank: Page) -> None:
    place = random.Random(2)
    for _ in range(60):
        texts = list(accumulate(place.choices(TOKENS, k=25)))
        assert isinstance(blank.evaluate(GROW, bodies(texts)), dict)


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape != "prose"])
def test_of_a_long_answer_only_the_end_is_touched(blank: Page, shape: str) -> None:
    most = blank.evaluate(GROW, bodies(growing(shape)))
    assert isinstance(most, dict), most
    assert most["parsed"] < 2500
    assert most["touched"] < 30


def test_of_a_picture_only_new_boxes_are_touched(blank: Page) -> None:
    texts = growing("list of 160 boxes")[::8]
    labels: Labels = {}
    figures = [
        picture_figure(picture(), entities_of(parse_answer(text)), labels=labels, description="boxes") for text in texts
    ]
    most = blank.evaluate(GROW, figures)
    assert isinstance(most, dict), most
    assert most["touched"] < 60  # eight boxes with their labels
