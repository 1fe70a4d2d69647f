"""Thumbs: what is kept of them, and where they show."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import gradio as gr
import pytest

from app.chat.answering import Rival
from app.chat.feedback import FeedbackFile
from app.page.comparing.rating import Ratings
from app.page.handlers import Handlers
from app.page.page_state import PageState
from models.conversation import Sampling
from models.errors import ConfigError
from tests.app.helpers import picture
from tests.fakes import INFO, ScriptedModel


class Pressed(gr.EventData):
    """A thumb under an answer."""

    def __init__(self, index: int, rating: str) -> None:
        self.index, self.rating = index, rating


class Voted(gr.EventData):
    """A vote under two answers."""

    def __init__(self, index: int, vote: str) -> None:
        self.index, self.vote = index, vote


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
        "settings": asdict(Sampling(seed=3)),
    }
    assert [one["rating"] for one in others] == ["down", ""]
    assert [one.rating for one in page.session.exchanges] == ["up", ""]


def test_a_vote_is_a_line_of_the_same_kind_with_two_of_each(tmp_path: Path) -> None:
    path, page = tmp_path / "kept.jsonl", PageState()
    right = ScriptedModel(["a cat"], info=replace(INFO, name="Other"))
    rival = Rival(model=right, sampling=Sampling(seed=4))
    list(page.session.ask(ScriptedModel(["a dog"]), "what?", [picture()], Sampling(seed=3), rival=rival))
    list(page.session.ask(right, "alone?"))
    handlers = Handlers(right, is_rated=True)
    ratings = Ratings(handlers, FeedbackFile(path))
    shown = str(handlers.messages(page))
    assert shown.count('data-vote="both bad" aria-pressed="false"') == 1
    assert shown.count('data-rating="up"') == 1  # under the answer that is alone
    for index, vote in ((0, "right"), (0, "both bad"), (0, "both bad"), (0, "nonsense"), (1, "left")):
        view = ratings.vote(page, Voted(index, vote))
    assert "one answer only" in view.notice
    first, *others = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    assert (first["kind"], first["vote"], first["model"]) == ("vote", "right", ["Scripted model", "Other"])
    assert (first["answer"], first["questions"], first["pictures"]) == (["a dog", "a cat"], ["what?"], ["red.png"])
    assert [one["seed"] for one in first["settings"]] == [3, 4]
    assert [one["vote"] for one in others] == ["both bad", ""]


def test_thumbs_are_there_only_where_they_are_kept(page: PageState) -> None:
    shown = str(Handlers(ScriptedModel(), is_rated=True).messages(page))
    assert shown.count('data-rating="up" aria-pressed="false"') >= 2
    assert 'data-action="rate"' not in str(Handlers(ScriptedModel()).messages(page))


def test_a_file_that_cannot_be_written_is_told_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--feedback .* can't be written \(Is a directory\)"):
        FeedbackFile(tmp_path)


def test_a_line_is_not_much_longer_than_an_answer(tmp_path: Path) -> None:
    """A press in a long chat wrote all of it, by the megabyte, as often as somebody pressed."""
    path, page = tmp_path / "kept.jsonl", PageState()
    model = ScriptedModel(["a dog\x9b\u2028" + "!" * 90_000] * 9)
    for number in range(9):
        list(page.session.ask(model, f"{number}" + "?" * 19_000, [], Sampling(seed=3)))
    FeedbackFile(path).rate(page.session.exchanges, 8, "up")
    text = path.read_text(encoding="utf-8")
    assert "\x9b" not in text
    (record,) = map(json.loads, text.splitlines())  # lines also end at U+2028
    assert [one[0] for one in record["questions"]] == ["7", "8"]
    assert record["answer"].startswith("a dog\x9b\u2028!")
    assert len(record["answer"]) == 50_000


def test_a_full_file_and_a_flood_are_one_line(page: PageState, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ratings = Ratings(Handlers(ScriptedModel(), is_rated=True), FeedbackFile(path := tmp_path / "kept.jsonl"))
    monkeypatch.setattr("app.chat.feedback.MOST_BYTES", 10)
    notices = [ratings.rate(page, Pressed(0, "up")).notice for _ in range(40)]
    assert "as many ratings as it keeps" in notices[1]
    assert page.session.exchanges[0].rating == "up"  # as it was when that was written
    assert "Too many ratings" in notices[-1]
    assert path.read_bytes().count(b"\n") == 1
