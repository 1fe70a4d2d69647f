"""Readers who have set a larger text in their browser get all of the text larger, and lose none of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.app.helpers import Server
from tests.app.page.browsing import ask, attach, done

pytestmark = pytest.mark.browser

GROUNDED = "Here are <p>a red circle</p> {<10><20><45><60>} and <p>squares</p> {<60><30><90><90>}.\n\n- `one`\n- two"

# What lies over the conversation and can be scrolled out of the way (.mv-bar) is left out.
# Every word that can be seen, or more of them: what it says, how large it is, and where, within all that cuts it off.
SEEN = """() => {
    const found = [];
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
        const text = walker.currentNode;
        const parent = text.parentElement;
        const isSeen = parent.checkVisibility({ visibilityProperty: true, opacityProperty: true });
        if (text.data.trim().length < 3 || !isSeen) continue;
        if (parent.closest("dialog, script, style, noscript, svg, h1, .mv-bar")) continue;
        const range = document.createRange();
        range.selectNodeContents(text);
        for (const rect of range.getClientRects()) {
            const box = { left: rect.left, top: rect.top, right: rect.right, bottom: rect.bottom };
            for (let node = parent; node; node = node.parentElement) {
                if (getComputedStyle(node).overflow === "visible") continue;
                const around = node.getBoundingClientRect();
                box.left = Math.max(box.left, around.left);
                box.top = Math.max(box.top, around.top);
                box.right = Math.min(box.right, around.right);
                box.bottom = Math.min(box.bottom, around.bottom);
            }
            if (box.right - box.left < 2 || box.bottom - box.top < 2) continue;
            const size = parseFloat(getComputedStyle(parent).fontSize);
            const where = parent.closest("#mv-settings, body").id;
            found.push({ says: text.data.trim().slice(0, 40), size, where, ...box });
        }
    }
    return found;
}"""


def seen(page: Page) -> list[dict[str, Any]]:
    page.wait_for_timeout(300)  # what moves has come to rest
    found: list[dict[str, Any]] = page.evaluate(SEEN)
    return found


def overlapping(texts: list[dict[str, Any]]) -> list[str]:
    """Lines of different texts that lie over each other by more than the ends of letters."""
    return [
        f"{one['says']} / {other['says']}"
        for index, one in enumerate(texts)
        for other in texts[:index]
        if one["says"] != other["says"]  # a text that is cut off with "…" is in two pieces
        and min(one["right"], other["right"]) - max(one["left"], other["left"]) > 3
        and min(one["bottom"], other["bottom"]) - max(one["top"], other["top"]) > 0.3 * min(one["size"], other["size"])
    ]


def test_twice_as_large_a_text_is_that_everywhere_and_nothing_overlaps(
    server: Server, page: Page, scene_file: Path
) -> None:
    browser = page.context.new_cdp_session(page)
    page.set_viewport_size({"width": 1280, "height": 900})
    page.goto(server.url)
    server.model.script = [GROUNDED]
    attach(page, scene_file)
    ask(page, "[grounding] describe this image in detail")
    done(page, 1)
    usual = {text["says"]: text["size"] for text in seen(page)}
    assert len(usual) > 20
    browser.send("Page.setFontSizes", {"fontSizes": {"standard": 32}})
    page.reload()  # labels are measured when the page is opened
    done(page, 1)
    for width, height in ((1280, 900), (1920, 1080), (390, 844)):
        page.set_viewport_size({"width": width, "height": height})
        texts = seen(page)
        small = [text["says"] for text in texts if text["size"] < 1.8 * usual.get(text["says"], 0)]
        assert not small, (width, small)
        assert not overlapping(texts), width
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        expect(page.locator("#mv-question textarea")).to_be_in_viewport()
    page.get_by_role("button", name="Settings", exact=True).click()
    expect(page.get_by_label("Seed")).to_be_visible()
    assert not overlapping([text for text in seen(page) if text["where"] == "mv-settings"])
