"""What is understood in a question is what is sent."""

from __future__ import annotations

import pytest

from app.chat import session as sessions
from app.chat.normaliser import normalise
from app.chat.questions import task_of
from app.chat.session import ChatSession
from models.errors import RequestError
from models.formats.minigpt import GROUNDING_TASKS
from models.grounding import parse_boxes
from tests.app.helpers import picture
from tests.fakes import ScriptedModel


@pytest.mark.parametrize(
    ("typed", "sent"),
    [
        ("[Detection] circle", "[detection] circle"),
        ("[detection]circle", "[detection] circle"),
        (" [DETECTION]   circle ", "[detection] circle"),
        ("\ufeff[vqa] how many?\u2028", "[vqa] how many?"),
        ("[vqa]\u00a0how\u200b many?", "[vqa] how many?"),
        ("\u200e[vqa\u200d]\u2800how\u061c many?\u200c \u200f", "[vqa] how many?"),
        ("[vqa] is it\U000e0020\U000e006e\U000e006f red\u3164?", "[vqa] is it red?"),
        ("[identify] [10, 20, 60, 70]", "[identify] {<10><20><60><70>}"),
        ("[identify] what is this (10,20,60,70)", "[identify] what is this {<10><20><60><70>}"),
        ("[identify] 60 70 10 20", "[identify] {<10><20><60><70>}"),
        ("[identify] 0.1, 0.2, 0.6, 0.7", "[identify] {<10><20><60><70>}"),
        ("[identify] {<60><70><10><120>}", "[identify] {<10><70><60><100>}"),
        ("what is at { <-5> <20><60> <70> }?", "what is at {<0><20><60><70>}?"),
        ("a\r\nb\x85c\x00d\ud800", "a\nb\ncd\ufffd"),
        ("👩‍👩‍👧 نمی‌خواهم", "👩‍👩‍👧 نمی‌خواهم"),
        ("[no task] 1 2 3 4", "[no task] 1 2 3 4"),
        ("", ""),
    ],
)
def test_one_form(typed: str, sent: str) -> None:
    assert normalise(typed, GROUNDING_TASKS) == sent
    assert normalise(sent, GROUNDING_TASKS) == sent  # and it stays


def test_a_box_beyond_the_image_is_refused() -> None:
    with pytest.raises(RequestError, match="0 to 100"):
        normalise("[identify] 10 20 640 480", GROUNDING_TASKS)


def test_other_families_have_no_boxes() -> None:
    assert normalise("{<60><70><10><20>} [Detection]", ()) == "{<60><70><10><20>} [Detection]"


def test_shown_understood_and_sent_are_the_same() -> None:
    model = ScriptedModel()
    session = ChatSession()
    for exchange in session.ask(model, "[Identify] [60, 70, 10, 20]", [picture()]):
        shown = exchange.question
    assert shown == model.last_question() == "[identify] {<10><20><60><70>}"
    assert task_of(shown, model.info.tasks)
    assert len(parse_boxes(shown)) == 1


def test_long_texts_take_no_time() -> None:
    for text in ("[identify] " + " " * 200_000 + "x", "[identify] " + "1 " * 100_000, "{ <" * 100_000, "<p>" * 100_000):
        normalise(text, GROUNDING_TASKS)  # a square of the length would be minutes


def test_a_question_is_read_while_others_may_be_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a thousand boxes that takes milliseconds, in which nobody could ask anything."""
    seen = list[bool]()

    def normalise(text: str, _: object) -> str:
        seen.append(sessions._STARTING.locked())
        return text

    monkeypatch.setattr(sessions, "normalise", normalise)
    assert list(ChatSession().ask(ScriptedModel(), "hello"))[-1].text
    assert seen == [False]
