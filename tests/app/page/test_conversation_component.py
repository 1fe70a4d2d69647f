"""What of a conversation travels to the browser."""

from __future__ import annotations

from copy import deepcopy
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest
from gradio.state_holder import SessionState
from PIL import Image

from app.chat.exchange import Exchange, IllustratedAnswer
from app.page.conversation_component import QuickBlocks, conversation_value, pixels_of
from app.page.messages import Bubble
from app.page.page_state import PageState
from models.conversation import Answer, Sampling
from tests.app.helpers import picture
from tests.waiting import in_a_loop


def test_a_page_gets_what_it_has_not_been_sent_and_the_last_two() -> None:
    page = PageState()
    first = conversation_value(page, ["a", "b", "c", "d"])
    assert [place for place, _ in first["new"]] == [0, 1, 2, 3]
    later = conversation_value(page, ["a", "B", "c", "d", "e", ["<div>", ["f", "g"], "h"]])
    assert [place for place, _ in later["new"]] == [1, 4, 5]
    assert [later["ids"][place] == first["ids"][place] for place in range(4)] == [True, False, True, True]
    whole = conversation_value(page, ["a", "B", "c"], whole=True)
    assert [bubble for _, bubble in whole["new"]] == ["a", "B", "c"]


def test_a_bubble_has_one_name_however_it_is_divided() -> None:
    bubbles: tuple[Bubble, ...] = ("<div>fgh</div>", ["<div>", ["f", "g"], "h"])
    names = [conversation_value(PageState(), [one])["ids"] for one in bubbles]
    assert names[0] == names[1]


@pytest.mark.usefixtures("no_stray_event_loops")
def test_what_a_listener_skips_is_not_made_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    with QuickBlocks() as demo:
        first, second, state = gr.HTML("one"), gr.HTML("two"), gr.State(0)
        first.change(lambda: None, None, [first, second, state])
    listener = next(one for one in demo.fns.values() if len(one.outputs) == 3)
    made: list[str] = []
    monkeypatch.setattr(gr.HTML, "__init__", lambda self, *values, **settings: made.append("HTML"))

    def given(*values: object) -> list[object]:
        return in_a_loop(demo.postprocess_data(listener, values, SessionState(demo)))

    assert given(gr.skip(), "2", gr.skip()) == [gr.skip(), "2", None]
    assert given(gr.skip(), gr.skip(), 5) == [gr.skip(), gr.skip(), None]
    assert given(gr.skip(), gr.skip(), gr.skip()) == [gr.skip(), gr.skip(), None]
    assert made == []


def test_pixels_are_those_of_the_page_alone() -> None:
    red, blue, drawn, other = (picture(colour) for colour in ("red", "blue", "green", "white"))
    page = PageState(attached={"file": blue})
    page.session.exchanges = [
        Exchange("what is it?", (red,), Sampling(), IllustratedAnswer(text="", picture=drawn.image))
    ]
    keys = [one.key for one in (red, blue, drawn, other)]
    assert pixels_of(page, keys) == {one.key: one.preview_uri for one in (red, blue, drawn)}
    assert pixels_of(page, "red") == pixels_of(page, None) == {}
    page.session.exchanges[0].answer = Answer(text="")
    assert pixels_of(page, [drawn.key]) == {}


def test_what_identifies_a_drawn_picture_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """One press read the same nine megapixels a thousand times for each picture that was wanted: an hour."""
    page, drawn = PageState(), picture("green").image
    page.session.exchanges = [
        Exchange("draw it", (), Sampling(), IllustratedAnswer(text="", picture=drawn)) for _ in range(9)
    ]
    read: list[Image.Image] = []
    tobytes = Image.Image.tobytes

    def counted(image: Image.Image) -> bytes:
        read.append(image)
        return tobytes(image)

    monkeypatch.setattr(Image.Image, "tobytes", counted)
    assert pixels_of(page, [f"{number}" for number in range(99)]) == {}
    (found,) = page.pictures().values()
    assert pixels_of(page, [found.key] * 9) == {found.key: found.preview_uri}
    assert sum(image is drawn for image in read) == 1


def test_pixels_come_a_few_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    red, blue = picture("red"), picture("blue")
    page = PageState(attached={"a": red, "b": blue})
    monkeypatch.setattr("app.page.conversation_component.MOST_BYTES", 1)
    assert pixels_of(page, [red.key, blue.key]) == {red.key: red.preview_uri, blue.key: ""}


def test_an_update_leaves_the_one_before_alone() -> None:
    """The browser changes what came before in place, and may not have drawn it yet."""
    with QuickBlocks() as demo:
        outputs = [gr.HTML(), gr.HTML(), gr.MultimodalTextbox()]
    listener = SimpleNamespace(outputs=outputs)
    updates = [
        [{"ids": ["a"]}, {"pictures": ["p"], "box": None}, gr.update(submit_btn=False)],
        [{"ids": ["a", "b"]}, gr.skip(), gr.skip()],
        [gr.skip(), gr.skip(), gr.update(submit_btn=True)],
        [gr.skip(), {"pictures": [], "box": None}, gr.update(submit_btn=True)],
    ]
    run: dict[str, Any] = {"session_hash": "s", "run": "r", "final": False}
    shown = demo.handle_streaming_diffs(listener, deepcopy(updates[0]), **run)
    for before, update in pairwise(updates):
        told = demo.handle_streaming_diffs(listener, deepcopy(update), **run)
        now = [_changed(value, edits) for value, edits in zip(shown, told, strict=True)]
        assert now == update
        assert shown[1:] == before[1:]  # the conversation may become the next one early: it shows that then
        shown = now
    assert demo.handle_streaming_diffs(listener, [None] * 3, **{**run, "final": True}) == updates[-1]


def _changed(value: Any, edits: list[Any]) -> Any:
    """As gradio's script does it."""
    for action, path, new in edits:
        if not path:
            value = new
            continue
        inner = value
        for step in path[:-1]:
            inner = inner[step]
        if action == "delete":
            del inner[path[-1]]
        elif action == "add" and isinstance(inner, list):
            inner.insert(path[-1], new)
        else:
            inner[path[-1]] = new
    return value
