"""Conversations whose page has gone wait in files, whole, and within a budget that nobody can use up for others."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from app.chat.conversation_store import ConversationStore
from app.chat.pictures import Picture
from app.chat.shelf import Shelf
from app.page.page_state import PageState
from engine.asker import ASKER, Asker
from models.conversation import Sampling
from tests.app.helpers import scene
from tests.fakes import ScriptedModel


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def conversation(text: str, image: Image.Image | None = None) -> PageState:
    """One question with its answer; the picture is not asked about again."""
    state = PageState()
    state.draft = {"text": "half a question", "files": []}
    model = ScriptedModel(default=text)
    for _ in state.session.ask(model, "what is it?", [Picture(image or scene())], Sampling(seed=1)):
        pass
    return state


@pytest.fixture
def clock() -> Clock:
    return Clock()


def shelved(clock: Clock, shelf: Shelf, states: dict[str, PageState]) -> ConversationStore[PageState]:
    """A store whose pages have all gone."""
    store = ConversationStore[PageState](grace=10, lifetime=100, shelf=shelf, clock=clock)
    store._caretaker = object()  # type: ignore[assignment]  # the test looks after it
    for key, state in states.items():
        asker = ASKER.set(Asker(key[:1], key[:1]))
        store.keep(key, state)
        ASKER.reset(asker)
        store.leave(key)
    clock.now += 10
    store.tidy()
    return store


def test_a_conversation_waits_in_a_file_and_comes_back_whole(clock: Clock) -> None:
    state = conversation("A red circle.")
    pixels = state.session.exchanges[0].pictures[0].image.tobytes()
    shelf = Shelf()
    store = shelved(clock, shelf, {"a": state})
    assert (store.num_bytes, state.session.exchanges) == (0, [])
    assert shelf._folder is not None
    assert len(list(shelf._folder.iterdir())) == 1
    back = store.get("a")
    assert back is not None
    assert [(one.question, one.text) for one in back.session.exchanges] == [("what is it?", "A red circle.")]
    assert back.session.exchanges[0].pictures[0].image.tobytes() == pixels
    assert back.draft == {"text": "half a question", "files": []}
    assert store.get("a") is back
    assert list(shelf._folder.iterdir()) == []
    assert store.num_bytes > len(pixels)


def test_files_go_with_their_conversations(clock: Clock) -> None:
    shelf = Shelf()
    store = shelved(clock, shelf, {"a": conversation("1"), "b": conversation("2")})
    store.drop("a")
    clock.now += 100
    assert store.tidy() is None
    assert shelf._folder is not None
    assert (len(store), list(shelf._folder.iterdir())) == (0, [])


def test_whoever_leaves_many_loses_their_own(clock: Clock) -> None:
    noise = {f"a{n}": conversation("x", Image.effect_noise((99, 99), 90).convert("RGB")) for n in range(8)}
    store = shelved(clock, Shelf(max_bytes=90_000), {"b": conversation("mine"), **noise})
    assert store.get("b") is not None
    assert len(store) < 7


def test_on_a_full_disk_it_stays_in_memory(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    shelf = Shelf()
    monkeypatch.setattr("app.chat.shelf.pickle.dump", full)
    store = shelved(clock, shelf, {"a": conversation("A red circle.")})
    store.tidy()
    assert [line for line in caplog.messages if "No space left" in line] == caplog.messages[-1:]
    assert shelf._folder is not None
    assert list(shelf._folder.iterdir()) == []
    kept = store.get("a")
    assert kept is not None
    assert kept.session.exchanges[0].text == "A red circle."
