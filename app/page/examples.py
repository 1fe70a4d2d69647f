"""The example pictures that ship with the program, each with a question, shown while the conversation is empty."""

from __future__ import annotations

import json
import mimetypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from app.chat.picture_uri import file_uri
from models.model_info import ModelInfo
from models.tasks import Task

FOLDER = Path(__file__).parent / "assets" / "examples"
INDEX = "examples.json"  # [{"image": file name, "question": text, "plain": text for families without its task}, …]


@dataclass(frozen=True)
class PageExample:
    """A picture with a question about it, offered on the empty page."""

    path: Path
    question: str


Examples = Callable[[ModelInfo], Sequence[PageExample]]  # those for a model


def no_examples(info: ModelInfo) -> Sequence[PageExample]:
    """None for any model."""
    del info
    return ()


def examples_in(folder: Path) -> Examples:
    """The folder's examples for each model, looked for once for each set of tasks."""
    known: dict[tuple[Task, ...], Sequence[PageExample]] = {}

    def examples(info: ModelInfo) -> Sequence[PageExample]:
        if info.tasks not in known:
            known[info.tasks] = find_examples(info.tasks, folder)
        return known[info.tasks]

    return examples


def find_examples(tasks: Sequence[Task], folder: Path = FOLDER) -> list[PageExample]:
    """The examples of the index; without one, every picture with the stock prompts of the tasks in turn.

    A question with a task identifier that this family does not know is replaced by its `plain` one, or left out.
    """
    known = tuple(task.identifier for task in tasks if task.identifier)
    try:
        entries = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    except FileNotFoundError:
        prompts = [task.prompt for task in tasks if task.prompt.strip() not in known and not task.takes_box]
        questions = [prompt for prompt in prompts if prompt.strip()] or ["Describe this image."]
        pictures = sorted(folder.glob("*.png"))
        entries = [{"image": path.name, "question": questions[i % len(questions)]} for i, path in enumerate(pictures)]
    examples = []
    for entry in entries:
        questions = [entry["question"], *filter(None, [entry.get("plain")])]
        asked = next((text for text in questions if text.startswith(known) or not text.startswith("[")), None)
        if asked is not None and (folder / entry["image"]).is_file():
            examples.append(PageExample(folder / entry["image"], asked))
    return examples


def examples_html(examples: Sequence[PageExample]) -> str:
    """A row of buttons, one per example."""
    cards = "".join(_card(index, example) for index, example in enumerate(examples))
    return f'<section aria-label="Examples"><h2>Try an example</h2><div class="mv-cards">{cards}</div></section>'


def _card(index: int, example: PageExample) -> str:
    # The files are small, smaller than a data URI of the pixels: the page's start is what waits for them.
    uri = file_uri(example.path.read_bytes(), mimetypes.guess_type(example.path)[0] or "image/*")
    question = escape(example.question)
    return (
        f'<button type="button" class="mv-card" data-action="example" data-index="{index}">'
        f'<img src="{uri}" alt="" loading="lazy"><span>{question}</span></button>'
    )
