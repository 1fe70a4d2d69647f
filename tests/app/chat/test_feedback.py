"""Thumbs: what is kept of them, and where they show."""

from __future__ import annotations

import json
from pathlib import Path

import gradio as gr
import pytest

from app.chat.feedback import FeedbackFile
from app.page.handlers import Handlers
from app.page.page_state import PageState
from app.page.rating import Ratings
from models.conversation import Sampling
from models.errors import ConfigError
from tests.app.helpers import picture
from tests.fakes import ScriptedModel


class Pressed(gr.EventData):
    """A thumb under an answer."""

    def __init__(self, index: int, rating: str) -> None:
        self.index, self.rating = index, rating


@pytest.fixture
def page() -> PageState:
    page, model = PageState(), ScriptedModel(["a dog", "brown"])
    list(page.session.ask(model, "what is it?", [picture()], Sampling(seed=3)))
    list(page.session.ask(model, "which colour?"))
    return page


def test_each_press_is_a_line_and_a_second_one_takes_it_back(page: PageState, tmp_path: Path) -> None:
    path = tmp_path / "kept.jsonl"
    ratings = Ratings(Handlers(ScriptedModel(), is_rated=True), FeedbackFile(path))
    for index, thumb in ((0, "up"), (1, "down"), (1, "down"), (7, "up")):
        view = ratings.rate(page, Pressed(index, thumb))
    assert "no longer there" in view.notice
    first, *others = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    del first["time"], first["asked"]
    assert first == {
        "kind": "rating",
        "rating": "up",
        "model": "Scripted model",
        "questions": ["what is it?"],
        "pictures": ["red.png"],
        "answer": "a dog",
        "settings": {"temperature": 1.0, "top_p": 0.9, "max_new_tokens": 300, "repetition_penalty": 1.05, "seed": 3},
    }
    assert [one["rating"] for one in others] == ["down", ""]
    assert [one.rating for one in page.session.exchanges] == ["up", ""]


def test_thumbs_are_there_only_where_they_are_kept(page: PageState) -> None:
    shown = str(Handlers(ScriptedModel(), is_rated=True).messages(page))
    assert shown.count('data-rating="up" aria-pressed="false"') >= 2
    assert 'data-action="rate"' not in str(Handlers(ScriptedModel()).messages(page))


def test_a_file_that_cannot_be_written_is_told_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--feedback .* can't be written \(Is a directory\)"):
        FeedbackFile(tmp_path)
