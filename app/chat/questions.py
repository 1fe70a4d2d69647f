"""What the text of a question says: its task, its boxes, and what is still missing before it can be asked."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from models.errors import RequestError
from models.grounding import Box, Phrase, format_box, parse_boxes, parse_grounded_text
from models.model_info import ModelInfo
from models.tasks import Task

MAX_QUESTION_CHARACTERS = 20_000


class NeedsImage(RequestError):
    """Refused because there is no image in the conversation."""


def task_of(text: str, tasks: Sequence[Task]) -> Task | None:
    """The task whose identifier begins the text."""
    start = text.lstrip().lower()
    return next((task for task in tasks if task.identifier and start.startswith(task.identifier.lower())), None)


def question_part(text: str, tasks: Sequence[Task]) -> str:
    """The text without its task identifier."""
    task = task_of(text, tasks)
    return text.strip()[len(task.identifier) :].strip() if task else text.strip()


def asked_phrase(text: str, tasks: Sequence[Task]) -> str:
    """The phrase that a question of a task with `phrasings` asks for, on one line; empty for every other question.

    It is what stands between `<p>` and `</p>`, or else what the longest phrasing that fits leaves.
    """
    task = task_of(text, tasks)
    if task is None or not task.phrasings:
        return ""
    parts = parse_grounded_text(question_part(text, tasks))
    words = "".join(part.text if isinstance(part, Phrase) else part for part in parts)
    if marked := re.search(r"<p>([^<>]*)</p>", words):
        words = marked[1]
    words = " ".join(words.split()).rstrip(" ?.!")
    for phrasing in sorted(task.phrasings, key=len, reverse=True):
        before, _, after = phrasing.rstrip(" ?").lower().partition("{}")
        phrase = words[len(before) : len(words) - len(after)]
        if phrase.strip() and f"{before}{phrase}{after}".lower() == words.lower():
            return phrase.strip()
    return ""


def with_task(text: str, task: Task, tasks: Sequence[Task]) -> str:
    """The text for the text box when a task button is pressed: what the user typed is kept, stock prompts are not."""
    typed = question_part(text, tasks)
    if not typed or typed in {question_part(other.prompt, tasks) for other in tasks}:
        return task.prompt
    return f"{task.identifier} {typed}".lstrip()


def with_box(text: str, box: Box | None, tasks: Sequence[Task]) -> str:
    """The text with the drawn box at its end, if its task wants one and the text has none yet."""
    task = task_of(text, tasks)
    if box is None or task is None or not task.takes_box or parse_boxes(text):
        return text
    return f"{text.rstrip()} {format_box(box)}"


def without_box(text: str, tasks: Sequence[Task]) -> tuple[str, Box | None]:
    """The reverse of `with_box`: the text for the text box, and the one box at its end, which is shown on the image."""
    task, boxes = task_of(text, tasks), parse_boxes(text)
    if task is None or not task.takes_box or len(boxes) != 1 or not text.rstrip().endswith("}"):
        return text, None
    return text[: text.rindex("{")], boxes[0]


@dataclass(frozen=True, kw_only=True)
class Wording:
    """How those who ask are told what to do: the page has buttons, a terminal commands, a file of questions lines."""

    no_text: str = "Type a question first."
    add_image: str = "add one first"
    give_box: str = "draw it on the image, or type its four numbers"
    write_after: str = "Type something after"
    fewer_images: str = "{num} are attached. Remove some."


PAGE_WORDING = Wording()


def check_question(
    text: str, info: ModelInfo, *, num_images: int, has_image: bool, wording: Wording = PAGE_WORDING
) -> None:
    """Raise RequestError for a question that can't be answered; `has_image` counts earlier turns, too."""
    task = task_of(text, info.tasks)
    if not text.strip():
        raise RequestError(wording.no_text)
    if len(text) > MAX_QUESTION_CHARACTERS:
        raise RequestError(f"The question is too long: {len(text)} characters, the limit is {MAX_QUESTION_CHARACTERS}.")
    check_number_of_images(num_images, info, wording=wording)
    if task is not None and not has_image:
        raise NeedsImage(f"{task.identifier} is about an image: {wording.add_image}.")
    if not has_image and (info.one_image_per_chat or not info.answers_without_image):
        raise NeedsImage(f"This model was trained to talk about an image: {wording.add_image}.")
    if task is None:
        return
    if task.takes_box and not parse_boxes(text):
        raise RequestError(f"{task.identifier} needs a box: {wording.give_box}.")
    if not question_part(text, info.tasks):
        usual = question_part(task.prompt, info.tasks)
        more = f", for example: {usual}" if usual else f". {task.hint}"
        raise RequestError(f"{wording.write_after} {task.identifier}{more}")


def check_number_of_images(num_images: int, info: ModelInfo, *, wording: Wording = PAGE_WORDING) -> None:
    """Raise RequestError for more images than the model takes in one question."""
    if num_images > info.max_images_per_turn:
        most = info.max_images_per_turn
        limit = {0: "no images", 1: "one image per question"}.get(most, f"{most} images per question")
        raise RequestError(f"This model takes {limit}; {wording.fewer_images.format(num=num_images)}")
