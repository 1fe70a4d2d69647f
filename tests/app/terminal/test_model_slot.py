"""One model takes another's place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from app.terminal.model_slot import ModelSlot
from engine.chat_model import ChatModel
from models.errors import CheckpointMissing, ConfigError, NotEnoughMemory, RequestError
from tests.fakes import INFO, ScriptedModel

FIRST, SECOND = "tiny_minigpt_v2", "tiny_minigpt4"


@pytest.fixture
def events() -> list[str]:
    return []


@pytest.fixture
def slot(events: list[str]) -> Iterator[ModelSlot]:
    """A slot whose second model has no room while `events` says so."""

    @contextmanager
    def open_model(config: Path) -> Iterator[ChatModel]:
        if config.stem == SECOND and "full" in events:
            raise NotEnoughMemory("No room.")
        events.append(f"load {config.stem}")
        yield ScriptedModel(info=replace(INFO, name=config.stem))
        events.append(f"unload {config.stem}")

    with ModelSlot(open_model, Path("eval_configs") / f"{FIRST}.yaml") as slot:
        yield slot
    assert events[-1].startswith("unload")


def test_the_old_model_goes_before_the_new_one_comes(slot: ModelSlot, events: list[str]) -> None:
    assert slot.chat.info.name == FIRST
    slot.switch(SECOND)
    assert slot.chat.info.name == SECOND
    assert events == [f"load {FIRST}", f"unload {FIRST}", f"load {SECOND}"]
    assert {FIRST, SECOND} <= set(slot.names())


def test_what_can_not_be_loaded_is_told_while_the_old_model_is_there(slot: ModelSlot, events: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"no configuration 'tiny_minigpt'\. Did you mean tiny_minigpt4\?"):
        slot.switch("tiny_minigpt")
    with pytest.raises(CheckpointMissing, match="files are missing"):
        slot.switch("minigpt_v2")
    assert events == [f"load {FIRST}"]


def test_the_old_model_comes_back_where_the_new_one_fails(slot: ModelSlot, events: list[str]) -> None:
    events.append("full")
    with pytest.raises(NotEnoughMemory):
        slot.switch(SECOND)
    assert slot.chat.info.name == FIRST


def test_without_any_model_the_chat_says_so(slot: ModelSlot, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: Path) -> None:
        raise NotEnoughMemory("No room.")

    monkeypatch.setattr(slot, "_load", fails)
    with pytest.raises(NotEnoughMemory):
        slot.switch(SECOND)
    with pytest.raises(RequestError, match="No model is loaded; /model NAME loads one"):
        _ = slot.chat
