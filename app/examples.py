"""The example pictures that ship with the program, each with a question, shown while the conversation is empty."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from PIL import Image

from app.images import data_uri
from models.tasks import Task

FOLDER = Path(__file__).parent / "assets" / "examples"
INDEX = "examples.json"  # [{"image": file name, "question": text}, …]
THUMBNAIL_SIDE = 240


@dataclass(frozen=True)
class Example:
    """A picture with a question about it."""

    path: Path
    question: str


def find_examples(tasks: Sequence[Task], folder: Path = FOLDER) -> list[Example]:
    """The examples of the index; without one, every picture with the stock prompts of the tasks in turn.

    Questions with a task identifier that this family does not know are left out.
    """
    known = tuple(task.identifier for task in tasks if task.identifier)
    try:
        entries = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    except FileNotFoundError:
        prompts = [task.prompt for task in tasks if task.prompt.strip() not in known and not task.takes_box]
        questions = [prompt for prompt in prompts if prompt.strip()] or ["Describe this image."]
        pictures = sorted(folder.glob("*.png"))
        entries = [{"image": path.name, "question": questions[i % len(questions)]} for i, path in enumerate(pictures)]
    examples = [Example(folder / entry["image"], entry["question"]) for entry in entries]
    return [
        example
        for example in examples
        if example.path.is_file() and (example.question.startswith(known) or not example.question.startswith("["))
    ]


def examples_html(examples: Sequence[Example]) -> str:
    """A row of buttons, one per example."""
    cards = "".join(_card(index, example) for index, example in enumerate(examples))
    return f'<section aria-label="Examples"><h2>Try an example</h2><div class="mv-cards">{cards}</div></section>'


def _card(index: int, example: Example) -> str:
    with Image.open(example.path) as image:
        thumbnail = image.convert("RGB")
    thumbnail.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    question = escape(example.question)
    return (
        f'<button type="button" class="mv-card" data-action="example" data-index="{index}">'
        f'<img src="{data_uri(thumbnail)}" alt="" loading="lazy"><span>{question}</span></button>'
    )
