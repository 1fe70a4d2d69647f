"""The view of expert routing: geometry, colours, shares, and what it costs when nobody looks."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Sequence
from dataclasses import replace

import gradio as gr
import pytest
from PIL import Image

from app.chat.pictures import Picture
from app.chat.regions import PALETTE
from app.extras.extended_model import ExtendedModel
from app.page.handlers import Handlers
from app.page.messages import messages_of
from app.page.page_state import PageState
from app.page.routing_view import grid_area, patch_uri, routing_html
from engine.chat_model import ChatModel
from models.conversation import Sampling
from models.errors import NotEnoughMemory
from models.routing_trace import shares
from tests.app.extras.scripted import EXTENDED_INFO, READS, ScriptedReader
from tests.app.helpers import picture
from tests.fakes import INFO, TRACE, ScriptedModel


def tracing_model() -> ScriptedModel:
    return ScriptedModel(info=replace(INFO, has_experts=True), trace=TRACE)


def pixels_of(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/png;base64,"))))


def rgb(expert: int) -> tuple[int, ...]:
    return (*bytes.fromhex(PALETTE[expert][1:]), 255)


def test_patches_have_the_colour_of_their_first_expert() -> None:
    drawn = pixels_of(patch_uri([0, 1, 1, 3], TRACE.grid))
    assert [drawn.getpixel((x, y)) for y in (0, 1) for x in (0, 1)] == [rgb(0), rgb(1), rgb(1), rgb(3)]


def test_a_patch_that_the_model_does_not_see_stays_clear() -> None:
    drawn = pixels_of(patch_uri([1, 2, 3], replace(TRACE.grid, first=1)))  # SigLIP's top-left one
    assert drawn.getpixel((0, 0)) == (0, 0, 0, 0)
    assert drawn.getpixel((1, 1)) == rgb(3)
    with_cls = pixels_of(patch_uri([3, 0, 1, 1, 2], replace(TRACE.grid, first=-1)))
    assert [with_cls.getpixel((x, y)) for y in (0, 1) for x in (0, 1)] == [rgb(0), rgb(1), rgb(1), rgb(2)]


@pytest.mark.parametrize(
    ("fit", "size", "area"),
    [
        ("pad", (1000, 500), (0, -250, 1000, 750)),
        ("pad", (500, 1000), (-250, 0, 750, 1000)),
        ("crop", (1000, 500), (250, 0, 750, 500)),
        ("stretch", (1000, 500), (0, 0, 1000, 500)),
    ],
)
def test_the_grid_lies_where_the_model_saw_it(fit: str, size: tuple[int, int], area: tuple[float, ...]) -> None:
    assert grid_area(replace(TRACE.grid, fit=fit), size) == area  # type: ignore[arg-type]


def test_shares_of_image_and_text_tokens() -> None:
    assert TRACE.tokens(0) == [1, 2, 3, 4]
    assert TRACE.tokens(None) == [0, 5]
    assert shares(TRACE.layers[0].first, [1, 2, 3, 4], 4) == [0.25, 0.5, 0, 0.25]
    assert shares(TRACE.layers[0].first, [], 4) == [0, 0, 0, 0]


def test_the_view_says_everything_in_words_too() -> None:
    html = routing_html(TRACE, picture(), name="x")
    assert re.findall(r'aria-label="(\w+ tokens: [^"]+)"', html) == [
        "Image tokens: expert 1 25%, expert 2 50%, expert 3 0%, expert 4 25%",
        "Text tokens: expert 1 0%, expert 2 0%, expert 3 100%, expert 4 0%",
        "Image tokens: expert 1 100%, expert 2 0%, expert 3 0%, expert 4 0%",
        "Text tokens: expert 1 50%, expert 2 0%, expert 3 0%, expert 4 50%",
    ]
    assert re.findall(r'data-layer="(\d+)"', html) == ["0", "2"]
    assert html.count('name="x"') == 2  # one open at a time
    assert len(set(re.findall(r"background:(#\w+)", html.split("</ul>")[0]))) == 4


def test_without_a_picture_there_is_only_text() -> None:
    html = routing_html(replace(TRACE, images=(None,) * 6), None, name="x")
    assert "Image tokens" not in html
    assert "<figure" not in html
    assert "6 text tokens" in html


def asked(model: ChatModel, pictures: Sequence[Picture] = ()) -> tuple[PageState, Handlers]:
    page = PageState()
    list(page.ask(model, "what is it?", pictures, Sampling(), READS))
    return page, Handlers(model)


def event(index: int) -> gr.EventData:
    return gr.EventData(None, {"index": index})


def html_of(view: object) -> str:
    return str(view)


def test_the_button_opens_and_closes_the_view() -> None:
    model = tracing_model()
    page, handlers = asked(model, [picture()])
    assert model.traced == []  # costs nothing before somebody asks for it
    assert "mv-routing-layer" in html_of(handlers.routing(page, event(0)))
    assert len(model.traced) == 1
    assert "mv-routing-layer" not in html_of(handlers.routing(page, event(0)))


def test_there_is_no_button_without_experts() -> None:
    model = ScriptedModel()
    page, handlers = asked(model)
    assert handlers.routing(page, event(0)).chat == gr.skip()
    assert handlers.routing(page, event(7)).chat == gr.skip()
    assert 'data-action="routing"' not in str(messages_of(page))
    assert 'data-action="routing"' in str(messages_of(page, has_experts=True))


def test_a_model_with_experts_and_extras_shows_both() -> None:
    inner = ScriptedModel(info=replace(EXTENDED_INFO, has_experts=True), trace=TRACE)
    model = ExtendedModel(inner, reader=ScriptedReader("EXIT 42"), generator=None)
    page, handlers = asked(model, [picture()])
    assert "mv-routing-layer" in html_of(handlers.routing(page, event(0)))
    ((turns, answer),) = inner.traced
    assert tuple(turns) == inner.seen[0]  # what the model read, the text in the image included
    assert "Reference OCR Token: EXIT 42" in turns[0].text
    assert answer == inner.default


def test_an_error_is_a_notice() -> None:
    model = tracing_model()
    model.trace = NotEnoughMemory("No memory for this.")
    page, handlers = asked(model)
    assert "No memory for this." in handlers.routing(page, event(0)).notice
