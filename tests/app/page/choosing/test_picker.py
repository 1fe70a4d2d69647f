"""The model with which a page begins."""

from __future__ import annotations

from collections.abc import Iterator

import gradio as gr
import pytest

from app.library.library import ModelLibrary
from app.page.choosing.page_models import PageModels
from app.page.choosing.picker import Picker, PickerView
from app.page.examples import no_examples
from app.page.handlers import Handlers
from app.page.page_state import PageState
from tests.app.library.fake_loader import FakeLoader, offer


@pytest.fixture
def library() -> Iterator[ModelLibrary]:
    with ModelLibrary([offer("first"), offer("other"), offer("away", problem="Not here.")], FakeLoader()) as library:
        library.load("first")
        yield library


@pytest.fixture
def picker(library: ModelLibrary) -> Picker:
    first = library.model("first")
    return Picker(Handlers(first, models=PageModels(first, library)), library, no_examples, has_scenes=False)


@pytest.mark.parametrize("chosen", ["first", "away", "gone", "", None, {}])
def test_the_default_stays_where_nothing_else_is_offered(picker: Picker, chosen: object) -> None:
    page = PageState()
    assert list(picker.show(page, "", chosen)) == [PickerView()]  # type: ignore[arg-type]
    assert page.model == ""


def test_the_one_that_was_chosen_last_is_loaded_for_a_new_tab(picker: Picker, library: ModelLibrary) -> None:
    page = PageState()
    *_, last = picker.show(page, "", "other")
    assert (page.model, last.library["page"]["name"]) == ("other", "Other")
    assert sorted(library.loaded()) == ["first", "other"]


def test_a_conversation_that_comes_back_keeps_its_own(picker: Picker) -> None:
    kept = PageState()
    picker._handlers.store.keep("key", kept)
    assert list(picker.show(PageState(), "key", "other")) == [PickerView()]
    assert kept.model == ""


def test_nobody_downloads_where_that_is_not_allowed(picker: Picker) -> None:
    event = gr.EventData(None, {"model": "away", "stop": False})
    (view,) = picker.download(PageState(), event)
    assert "--allow-download" in view.notice
