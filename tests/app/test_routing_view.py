"""The view of expert routing: geometry, colours, shares, and what it costs when nobody looks."""

from __future__ import annotations

import base64
import io
import json
import re
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import gradio as gr
import pytest
from PIL import Image

from app.engine import ChatEngine
from app.events import Handlers
from app.images import Picture
from app.messages import messages_of
from app.overlay import PALETTE
from app.routing_view import grid_area, patch_uri, routing_html
from app.session import ChatSession
from models.conversation import Answer, Sampling, Turn
from models.errors import NotEnoughMemory
from models.loader import load_model
from models.parts.routing_tracer import trace_routing
from models.parts.sparse_decoders import SparseDecoder
from models.routing_trace import LayerRouting, PatchGrid, RoutingTrace, shares
from tests.app.helpers import picture
from tests.fakes import INFO, ScriptedModel

GOLDENS = Path(__file__).resolve().parents[1] / "goldens"
GRID = PatchGrid(side=2, first=0, fit="pad")
# Text, four patches, text; layer 0 sends patches to experts 0, 1, 1, 3 and text to 2.
TRACE = RoutingTrace(
    layers=(
        LayerRouting(0, 4, first=(2, 0, 1, 1, 3, 2), second=(0, 1, 2, 3, 0, 1)),
        LayerRouting(2, 4, first=(0, 0, 0, 0, 0, 3), second=(1, 1, 1, 1, 1, 1)),
    ),
    images=(None, 0, 0, 0, 0, None),
    grid=GRID,
)


class TracingModel(ScriptedModel):
    """A scripted model that claims to have experts."""

    error: Exception | None = None
    traced: int = 0

    def routing(self, turns: Sequence[Turn], answer: str, sampling: Sampling) -> RoutingTrace:
        self.traced += 1
        if self.error is not None:
            raise self.error
        return TRACE


def tracing_model() -> TracingModel:
    model = TracingModel()
    model.info = replace(INFO, has_experts=True)
    return model


def pixels_of(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/png;base64,"))))


def rgb(expert: int) -> tuple[int, ...]:
    return (*bytes.fromhex(PALETTE[expert][1:]), 255)


def test_patches_have_the_colour_of_their_first_expert() -> None:
    drawn = pixels_of(patch_uri([0, 1, 1, 3], GRID))
    assert [drawn.getpixel((x, y)) for y in (0, 1) for x in (0, 1)] == [rgb(0), rgb(1), rgb(1), rgb(3)]


def test_a_patch_that_the_model_does_not_see_stays_clear() -> None:
    drawn = pixels_of(patch_uri([1, 2, 3], replace(GRID, first=1)))  # SigLIP's top-left one
    assert drawn.getpixel((0, 0)) == (0, 0, 0, 0)
    assert drawn.getpixel((1, 1)) == rgb(3)
    with_cls = pixels_of(patch_uri([3, 0, 1, 1, 2], replace(GRID, first=-1)))
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
    assert grid_area(replace(GRID, fit=fit), size) == area  # type: ignore[arg-type]


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


def asked(model: ScriptedModel, pictures: Sequence[Picture] = ()) -> tuple[ChatSession, Handlers]:
    session = ChatSession()
    for _ in session.ask(model, "what is it?", pictures):
        pass
    return session, Handlers(model)


def event(index: int) -> gr.EventData:
    return gr.EventData(None, {"index": index})


def html_of(view: object) -> str:
    return str(view)


def test_the_button_opens_and_closes_the_view() -> None:
    model = tracing_model()
    session, handlers = asked(model, [picture()])
    assert model.traced == 0  # costs nothing before somebody asks for it
    assert "mv-routing-layer" in html_of(handlers.routing(session, event(0)))
    assert model.traced == 1
    assert "mv-routing-layer" not in html_of(handlers.routing(session, event(0)))
    assert session.exchanges[0].routing is None
    handlers.routing(session, event(0))
    for _ in session.ask(model, "and now?"):
        pass
    assert session.exchanges[0].routing is None  # the next question closes it


def test_there_is_no_button_without_experts() -> None:
    model = ScriptedModel()
    session, handlers = asked(model)
    assert handlers.routing(session, event(0)).chat == gr.skip()
    assert handlers.routing(session, event(7)).chat == gr.skip()
    assert 'data-action="routing"' not in str(messages_of(session))
    session, _ = asked(tracing_model())
    assert 'data-action="routing"' in str(messages_of(session))


def test_an_error_is_a_notice() -> None:
    model = tracing_model()
    model.error = NotEnoughMemory("No memory for this.")
    session, handlers = asked(model)
    assert "No memory for this." in handlers.routing(session, event(0)).notice


@pytest.fixture(scope="module")
def engine() -> Iterator[ChatEngine]:
    path = GOLDENS / "moe-llava-stablelm" / "config.yaml"
    with ChatEngine(load_model(path, device="cpu", report=lambda _: None)) as engine:
        yield engine


def test_the_engine_traces_the_reference_s_choices(engine: ChatEngine) -> None:
    """First choices of the prompt are those recorded; the image is not encoded again, and the hooks are gone."""
    record = json.loads((GOLDENS / "moe-llava-stablelm" / "case.json").read_text())["turns"][0]
    image = Image.open(GOLDENS / "moe-llava-stablelm" / "image.png").convert("RGB")
    turns = [Turn("user", record["user"], (image,))]
    sampling = Sampling(temperature=0, repetition_penalty=1.0, max_new_tokens=20)
    answer: Answer
    *_, answer = engine.stream(turns, sampling)
    encoded = engine.stats().images_encoded
    trace = engine.routing(turns, answer.text, sampling)
    assert engine.stats().images_encoded == encoded
    length = record["seq_len_after_splice"]
    for layer in trace.layers:
        counts = [round(share * length) for share in shares(layer.first, range(length), layer.num_experts)]
        assert counts == record["routing_first_forward"][str(layer.layer)]["exp_counts_first_choice"]
        assert all(first != second for first, second in zip(layer.first, layer.second, strict=True))
    assert len(trace.tokens(0)) == trace.grid.side**2 == 25
    assert len(trace.images) > length  # the answer, too
    assert engine.stats().images_pinned == 0
    *_, again = engine.stream(turns, sampling)
    assert again.text == answer.text


def test_other_threads_leave_no_trace_and_hooks_are_removed(engine: ChatEngine) -> None:
    model = engine._model
    decoder = model.language_model
    assert isinstance(decoder, SparseDecoder)
    with decoder.record_routing() as found:
        thread = threading.Thread(target=trace_routing, args=(model, [70, 71], [None, None]))
        thread.start()
        thread.join()
        assert found == {}
    assert not any(layer.router._forward_hooks for layer in decoder.sparse_layers.values())
