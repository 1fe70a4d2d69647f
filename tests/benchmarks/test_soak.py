"""A short soak: visitors who stop, retry and leave, and an engine that is as empty afterwards as before."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.soak import Soak, left_behind, save
from benchmarks.soak_http import HttpSoak
from engine.chat_engine import ChatEngine
from engine.stats import IN_USE
from models.conversation import Turn
from tests.tiny_model import GREEDY, quick_process, tiny_model


@pytest.fixture(autouse=True)
def _quick() -> Iterator[None]:
    with quick_process():
        yield


def test_after_a_soak_nothing_is_left_behind() -> None:
    with ChatEngine(tiny_model(), max_concurrent=3, max_queue=2, page_size=8, num_image_slots=4) as engine:
        soak = Soak(engine, seconds=3)
        stats = soak.run(visitors=8)
        assert soak.errors == []
        assert left_behind(stats) == {}
        assert soak.events["asked"] > 0
        assert stats.images_encoded > 0
        assert stats.restarts == 0


def test_a_soak_is_recorded_with_what_it_left_behind(tmp_path: Path) -> None:
    with ChatEngine(tiny_model(), update_interval=0) as engine:
        soak = Soak(engine, seconds=0)
        soak.run(visitors=1)
        soak.errors.append(ValueError("x"))
        path = save(soak, replace(engine.stats(), pages_in_use=2), {"date": "2000-01-01"}, tmp_path)
    values = json.loads(path.read_text())
    assert path.name == "2000-01-01-soak.json"
    assert values["left_behind"] == {"pages_in_use": 2}
    assert values["errors"] == ["ValueError: x"]


def test_an_answer_that_still_runs_is_seen() -> None:
    with ChatEngine(tiny_model(), update_interval=0) as engine, engine.stream([Turn("user", "hi")], GREEDY) as answers:
        next(answers)
        assert set(left_behind(engine.stats())) <= set(IN_USE)
        assert left_behind(engine.stats())["active"] == 1


def test_memory_grows_where_it_stays_and_not_where_a_look_finds_much() -> None:
    steady = [(5.0 * number, number, 500.0 + 100 * (number % 7 == 3)) for number in range(60)]
    assert HttpSoak("", 0, 0, memory=steady).growth == 0
    assert HttpSoak("", 0, 0, memory=[(when, seen, mib + when) for when, seen, mib in steady]).growth > 0.2
