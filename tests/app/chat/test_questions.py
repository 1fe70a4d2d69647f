"""Task identifiers and boxes in the text of a question, and what is refused before a model sees it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.chat.questions import (
    MAX_QUESTION_CHARACTERS,
    NeedsImage,
    asked_phrase,
    check_question,
    question_part,
    task_of,
    with_box,
    with_task,
    without_box,
)
from models.errors import RequestError
from models.formats.minigpt import GROUNDING_TASKS
from models.grounding import Box
from tests.fakes import INFO, TASKS
from training.instructions import REFER_POOL

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


@pytest.mark.parametrize(
    ("text", "phrase"),
    [
        ("[refer] the dotted red circle", "the dotted red circle"),
        ("  [REFER]  the  red\ncircle? ", "the red circle"),
        ("[refer] <p>the red circle</p>", "the red circle"),
        ("[refer] give me the location of <p>a dog </p>", "a dog"),
        ("[refer] Where is the cat ?", "the cat"),
        ("[refer] where can I locate the the cat", "the cat"),
        ("[refer] the location of the cat is", "the cat"),
        ("[refer] where is", "where is"),
        ("[refer] is the cat", "is the cat"),
        ("[refer] the cat {<1><2><3><4>}", "the cat"),
        ("[refer] {<1><2><3><4>}", ""),
        ("[refer] ?", ""),
        ("[detection] dog", ""),
        ("where is the dog?", ""),
    ],
)
def test_the_phrase_that_a_question_asks_for(text: str, phrase: str) -> None:
    assert asked_phrase(text, GROUNDING_TASKS) == phrase


def test_phrasings_are_those_that_the_models_were_trained_with() -> None:
    (refer,) = (task for task in GROUNDING_TASKS if task.phrasings)
    assert tuple(f"{refer.identifier} {phrasing}" for phrasing in refer.phrasings) == REFER_POOL
    for phrasing in REFER_POOL:
        assert asked_phrase(phrasing.format("a dog"), GROUNDING_TASKS) == "a dog"


@given(st.text(max_size=30))
def test_a_phrase_is_part_of_its_question(text: str) -> None:
    phrase = asked_phrase(f"[refer] {text}", GROUNDING_TASKS)
    assert phrase in " ".join(text.split())
    assert phrase == phrase.strip()


def test_a_box_is_added_once_and_only_where_it_belongs() -> None:
    assert with_box("[identify] what is this ", BOX, TASKS) == "[identify] what is this {<10><20><30><40>}"
    assert with_box("[identify] this {<1><2><3><4>}", BOX, TASKS) == "[identify] this {<1><2><3><4>}"
    assert with_box("what is this", BOX, TASKS) == "what is this"
    assert with_box("[identify] what", None, TASKS) == "[identify] what"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("[identify] what is this {<10><20><30><40>}", ("[identify] what is this ", BOX)),
        ("[identify] {<10><20><30><40>} and {<1><2><3><4>}", None),  # which of them was drawn?
        ("[identify] the {<10><20><30><40>} there", None),
        ("what is this {<10><20><30><40>}", None),
        ("[identify] what", None),
    ],
)
def test_the_box_of_an_edited_question_goes_back_to_the_image(text: str, found: tuple[str, Box] | None) -> None:
    assert without_box(text, TASKS) == (found or (text, None))
    if found:
        assert with_box(*found, TASKS) == text


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


def test_a_question_may_be_as_long_as_the_limit() -> None:
    check_question("x" * MAX_QUESTION_CHARACTERS, INFO, num_images=1, has_image=True)


def test_a_question_without_an_image_is_the_familys_decision() -> None:
    check_question("hello", INFO, num_images=0, has_image=False)
    for fact in ({"answers_without_image": False}, {"one_image_per_chat": True}):
        with pytest.raises(NeedsImage, match="trained to talk about an image: add one first"):
            check_question("hello", replace(INFO, tasks=(), **fact), num_images=0, has_image=False)  # type: ignore[arg-type]
