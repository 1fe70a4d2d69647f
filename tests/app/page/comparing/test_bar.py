"""Who answers beside the page's model: chosen, loaded, with settings of its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import gradio as gr
import pytest

from app.library.library import ModelLibrary
from app.page.choosing.page_models import PageModels
from app.page.comparing.bar import BarView, CompareBar
from app.page.handlers import Handlers
from app.page.page_state import PageState
from models.sampling_settings import settings_of
from tests.app.library.fake_loader import FakeLoader, offer, scripted, settle
from tests.app.page.sidebar import SETTINGS, typed
from tests.fakes import INFO, ScriptedModel

PLAIN = replace(INFO, name="Plain", answers_without_image=True)


class Changed(gr.EventData):
    """What the bar's script sends."""

    def __init__(self, *, on: bool = True, model: str = "", values: dict[str, Any] | None = None) -> None:
        self.on, self.model, self.values = on, model, values


@pytest.fixture
def library() -> Iterator[ModelLibrary]:
    offers = [offer("first"), offer("plain"), offer("huge", 95), offer("away", problem="Not here: x.")]
    with ModelLibrary(offers, FakeLoader(infos={"plain": PLAIN})) as library:
        library.load("first")
        yield library


@pytest.fixture
def handlers(library: ModelLibrary) -> Handlers:
    first = library.model("first")
    return Handlers(first, models=PageModels(first, library))


def change(bar: CompareBar, page: PageState, **event: Any) -> BarView:
    return list(bar.change(page, "", Changed(**event)))[-1]


def test_two_models_answer_each_with_its_own_settings(library: ModelLibrary, handlers: Handlers) -> None:
    bar, page = CompareBar(handlers, library), PageState()
    view = change(bar, page)
    assert view.bar["model"] == "first"  # no other is loaded
    assert [one["id"] for one in view.bar["models"]] == ["first", "plain", "huge"]
    view = change(bar, page, model="plain")
    assert (view.bar["model"], view.bar["line"], view.notice) == ("plain", "", "")
    change(bar, page, values={"temperature": "0.3", "seed": "7", "nonsense": "1"})
    list(handlers.ask(page, "", typed("hello"), None, *SETTINGS))
    left, right = page.session.exchanges[0].answers
    assert (left.model, right.model) == ("First", "Plain")
    assert (left.sampling.temperature, right.sampling.temperature, right.sampling.seed) == (0.6, 0.3, 7)
    assert scripted(library, "plain").last_question() == "hello"
    assert change(bar, page, on=False).bar["on"] is False
    list(handlers.ask(page, "", typed("alone"), None, *SETTINGS))
    assert page.session.exchanges[1].pair is None


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"temperature": "warm"}, "Temperature of the right answer must be a number, not &#x27;warm&#x27;."),
        ({"temperature": "-1"}, "temperature is"),
        ({"top_p": "nan"}, "top_p is nan"),
        ({"max_new_tokens": "1.5"}, "it must be a whole number"),
    ],
)
def test_a_setting_that_cannot_be_is_one_line(values: dict[str, str], said: str) -> None:
    bar, page = CompareBar(Handlers(ScriptedModel()), None), PageState()
    change(bar, page)
    assert said in change(bar, page, values=values).notice
    assert page.rival is not None
    assert page.rival.values == {}


def test_what_does_not_fit_beside_the_pages_model_is_one_line(library: ModelLibrary, handlers: Handlers) -> None:
    bar, page = CompareBar(handlers, library), PageState()
    for name, said in (("huge", "Huge does not fit beside First"), ("away", "Not here: x."), ("none", "no model")):
        assert said in change(bar, page, model=name).notice
    assert page.rival is None
    assert sorted(library.loaded()) == ["first"]


def test_a_model_that_has_gone_comes_back_beside_the_other(library: ModelLibrary, handlers: Handlers) -> None:
    bar, page = CompareBar(handlers, library), PageState()
    change(bar, page, model="plain")
    library.want("huge")  # another visitor's choice
    settle(library)
    assert sorted(library.loaded()) == ["huge"]
    for expected in ("First is not in memory now", "Plain is not in memory now"):
        view = list(handlers.ask(page, "", typed("hello"), None, *SETTINGS))[-1]
        assert expected in view.notice
        settle(library)
    list(handlers.ask(page, "", typed("hello"), None, *SETTINGS))
    assert [one.text for one in page.session.exchanges[0].answers] == ["A red circle and a blue square."] * 2


def test_one_model_is_compared_with_itself() -> None:
    handlers = Handlers(model := ScriptedModel())
    bar, page = CompareBar(handlers, None), PageState()
    view = change(bar, page)
    assert (view.bar["on"], view.bar["models"]) == (True, [])
    shown = {one["name"]: one["value"] for one in view.bar["settings"]}
    assert list(shown) == [one.name for one in settings_of(INFO.sampling)]
    assert (shown["temperature"], shown["max_new_tokens"], shown["seed"]) == ("0.6", "200", "")
    change(bar, page, values={"temperature": "0"})
    list(handlers.ask(page, "", typed("hello"), None, *SETTINGS))
    assert sorted(one.temperature for one in model.samplings) == [0, 0.6]


def test_of_what_the_browser_sends_as_settings_only_settings_are_kept() -> None:
    """Whatever it sent was kept, by the megabyte, and counted by nobody."""
    bar, page = CompareBar(Handlers(ScriptedModel()), None), PageState()
    change(bar, page)
    change(bar, page, values={"temperature": "0", "top_p": "1" + " " * 999, "anything": ["x"] * 999, "seed": None})
    assert page.rival is not None
    assert page.rival.values == {"temperature": "0", "top_p": "1" + " " * 39}
