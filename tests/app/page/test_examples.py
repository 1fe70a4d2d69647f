"""Example pictures: the index, what happens without one, and the ones that ship."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from app.chat.pictures import open_picture
from app.chat.questions import check_question
from app.page.examples import examples_html, find_examples
from tests.app.helpers import scene
from tests.fakes import INFO, TASKS


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.png", "b.png"):
        scene().save(tmp_path / name)
    return tmp_path


def test_without_an_index_every_picture_gets_a_stock_prompt(folder: Path) -> None:
    examples = find_examples(TASKS, folder)
    assert [example.path.name for example in examples] == ["a.png", "b.png"]
    for example in examples:
        check_question(example.question, INFO, num_images=1, has_image=True)


def test_the_index_decides_and_what_the_family_does_not_know_is_left_out(folder: Path) -> None:
    entries = [("a.png", "[detection] <dog>"), ("b.png", "[segment] dog"), ("gone.png", "hello"), ("b.png", "hello")]
    index = [{"image": image, "question": question} for image, question in entries]
    index[1]["plain"] = "what is it?"
    (folder / "examples.json").write_text(json.dumps(index), encoding="utf-8")
    assert [e.question for e in find_examples(TASKS, folder)] == ["[detection] <dog>", "what is it?", "hello"]
    assert [e.question for e in find_examples((), folder)] == ["what is it?", "hello"]
    html = examples_html(find_examples(TASKS, folder))
    assert "[detection] &lt;dog&gt;" in html
    assert html.count("<img") == 3


def test_no_folder_is_no_examples(tmp_path: Path) -> None:
    assert find_examples(TASKS, tmp_path / "nowhere") == []


def test_shipped_examples_are_pictures_with_askable_questions() -> None:
    for tasks in (TASKS, ()):
        examples = find_examples(tasks)
        assert len(examples) == 6
        for example in examples:
            open_picture(example.path)
            check_question(example.question, replace(INFO, tasks=tasks), num_images=1, has_image=True)
