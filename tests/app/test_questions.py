"""Task identifiers and boxes in the text of a question, and what is refused before a model sees it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.questions import MAX_QUESTION_CHARACTERS, check_question, question_part, task_of, with_box, with_task
from models.errors import RequestError
from models.grounding import Box
from tests.fakes import INFO, TASKS

CHAT, CAPTION, VQA, GROUNDING, REFER, DETECTION, IDENTIFY = TASKS
BOX = Box(0.1, 0.2, 0.3, 0.4)


@pytest.mark.parametrize(
    ("text", "task", "expected"),
    [
        ("", REFER, "[refer] "),
        ("red circle", REFER, "[refer] red circle"),
        ("[refer] red circle", DETECTION, "[detection] red circle"),
        ("[refer] red circle", CHAT, "red circle"),
        ("[caption] Briefly describe this image.", GROUNDING, "[grounding] describe this image in detail"),
        ("[identify] what is this ", VQA, "[vqa] "),
        ("  [REFER]  a dog", DETECTION, "[detection] a dog"),
        ("[detection] ", CHAT, ""),
    ],
)
def test_a_task_button_keeps_what_was_typed(text: str, task: object, expected: str) -> None:
    assert with_task(text, next(t for t in TASKS if t is task), TASKS) == expected


@given(st.text(max_size=20), st.sampled_from(TASKS), st.sampled_from(TASKS))
def test_any_text_survives_task_buttons(text: str, first: object, second: object) -> None:
    first, second = (next(t for t in TASKS if t is task) for task in (first, second))
    typed = question_part(text, TASKS)
    result = with_task(with_task(text, first, TASKS), second, TASKS)
    stock = {question_part(task.prompt, TASKS) for task in TASKS}
    assert typed in stock or question_part(result, TASKS) == typed or task_of(typed, TASKS)


def test_a_box_is_added_once_and_only_where_it_belongs() -> None:
    assert with_box("[identify] what is this ", BOX, TASKS) == "[identify] what is this {<10><20><30><40>}"
    assert with_box("[identify] this {<1><2><3><4>}", BOX, TASKS) == "[identify] this {<1><2><3><4>}"
    assert with_box("what is this", BOX, TASKS) == "what is this"
    assert with_box("[identify] what", None, TASKS) == "[identify] what"


@pytest.mark.parametrize(
    ("text", "images", "has_image", "message"),
    [
        ("", 1, True, "Type a question"),
        (" \n ", 0, True, "Type a question"),
        ("[refer] dog", 0, False, "add one first"),
        ("[refer] ", 1, True, "after [refer]"),
        ("[detection]", 1, True, "after [detection]"),
        ("[identify] what is this", 1, True, "draw it on the image"),
        ("hello", 2, True, "takes one image per question; 2 are attached"),
        ("x" * (MAX_QUESTION_CHARACTERS + 1), 1, True, "too long"),
    ],
)
def test_what_is_refused(text: str, images: int, has_image: bool, message: str) -> None:
    with pytest.raises(RequestError) as raised:
        check_question(text, INFO, num_images=images, has_image=has_image)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_question_without_an_image_is_the_familys_decision() -> None:
    check_question("hello", INFO, num_images=0, has_image=False)
    with pytest.raises(RequestError, match="about images only"):
        check_question("hello", replace(INFO, tasks=(), answers_without_image=False), num_images=0, has_image=False)
