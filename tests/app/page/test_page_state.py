"""What a page holds beside the conversation: an edit, attached files, routing that is looked at."""

from __future__ import annotations

import copy
import threading
from pathlib import Path

import pytest

from app.chat.exchange import WantedExtras
from app.chat.session import StillAnswering
from app.page.page_state import PageState
from models.conversation import Sampling
from models.errors import ImageError, RequestError
from tests.app.helpers import encode, picture, scene
from tests.fakes import TRACE, ScriptedModel


def page_about(model: ScriptedModel, *texts: str) -> PageState:
    """A page with these questions, the first of them about an image."""
    page = PageState()
    for index, text in enumerate(texts):
        list(page.session.ask(model, text, [picture()] if index == 0 else []))
    return page


def ask(page: PageState, model: ScriptedModel, text: str) -> None:
    list(page.ask(model, text, (), Sampling(), WantedExtras()))


def test_states_are_copied_empty_for_each_visitor() -> None:
    first = PageState()
    other = copy.deepcopy(first)
    other.session.exchanges += page_about(ScriptedModel(), "one").session.exchanges
    other.attached["a.png"] = picture()
    assert (first.session.exchanges, first.attached) == ([], {})


def test_files_of_the_same_pixels_take_memory_each(tmp_path: Path) -> None:
    """Or many of them would count as one."""
    files = []
    for number in range(3):
        files.append(tmp_path / f"{number}.png")
        files[-1].write_bytes(encode(scene()) + b"%d" % number)
    page, other = PageState(), PageState()
    pictures = page.attach([str(file) for file in files])
    assert len({picture.key for picture in pictures}) == 1
    assert sum(page.sizes().values()) >= 3 * pictures[0].num_bytes
    other.attach([str(files[0])])
    assert set(other.sizes()) & set(page.sizes()) > set(PageState().sizes())  # what two pages share has one name


def test_an_edit_replaces_from_there_once_it_is_sent() -> None:
    model = ScriptedModel()
    page = page_about(model, "one", "two", "three")
    assert page.edit(1).question == "two"
    with pytest.raises(RequestError):
        ask(page, model, "")
    assert page.editing == 1
    ask(page, model, "other")
    ask(page, model, "more")
    assert [exchange.question for exchange in page.session.exchanges] == ["one", "other", "more"]


@pytest.mark.parametrize("index", [-1, 2])
def test_a_question_that_is_not_there_can_not_be_edited(index: int) -> None:
    page = page_about(ScriptedModel(), "one", "two")
    with pytest.raises(RequestError, match="no longer there"):
        page.edit(index)
    assert page.editing is None


def test_the_next_question_is_about_the_image_before_the_edited_one() -> None:
    page = page_about(ScriptedModel(), "one", "two")
    assert page.picture is page.session.exchanges[0].pictures[0]
    page.edit(1)
    assert page.picture is not None
    page.edit(0)
    assert page.picture is None


def test_files_are_read_once_and_go_when_they_are_taken_away(tmp_path: Path) -> None:
    good, bad = str(tmp_path / "good.png"), str(tmp_path / "bad.png")
    scene().save(good)
    Path(bad).write_text("no picture")
    page = PageState()
    (first,) = page.attach([good])
    with pytest.raises(ImageError):
        page.attach([good, bad])
    assert page.attach([good]) == [first]
    assert page.attach([]) == []
    assert page.attached == {}


@pytest.mark.parametrize("leave", ["ask", "retry", "undo", "reset"])
def test_routing_is_shown_until_the_conversation_changes(leave: str) -> None:
    model = ScriptedModel()
    page = page_about(model, "one")
    page.routing[page.session.exchanges[0]] = TRACE
    {
        "ask": lambda: ask(page, model, "two"),
        "retry": lambda: list(page.retry(model, Sampling(), WantedExtras())),
        "undo": page.undo,
        "reset": page.reset,
    }[leave]()
    assert page.routing == {}


def test_no_edit_begins_while_a_question_is_being_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    page, model = PageState(), ScriptedModel()
    list(page.session.ask(model, "one"))
    model.gate = threading.Semaphore(0)
    refused: list[StillAnswering] = []

    def edit() -> None:
        try:
            page.edit(0)
        except StillAnswering as error:
            refused.append(error)

    editing = threading.Thread(target=edit)
    neutralise = model.neutralise

    def neutralise_slowly(text: str) -> str:
        editing.start()
        editing.join(timeout=0.3)  # an edit that could begin now would have by then
        return neutralise(text)

    monkeypatch.setattr(model, "neutralise", neutralise_slowly)
    page.ask(model, "two", (), Sampling(), WantedExtras())
    editing.join()
    page.stop()
    model.open_gate()
    assert len(refused) == 1
    assert [exchange.question for exchange in page.session.exchanges] == ["one", "two"]
