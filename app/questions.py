"""What the text of a question says: its task, its boxes, and what is still missing before it can be asked."""

from __future__ import annotations

from collections.abc import Sequence

from models.errors import RequestError
from models.grounding import Box, format_box, parse_boxes
from models.model_info import ModelInfo
from models.tasks import Task

MAX_QUESTION_CHARACTERS = 20_000


def task_of(text: str, tasks: Sequence[Task]) -> Task | None:
    """The task whose identifier begins the text."""
    start = text.lstrip().lower()
    return next((task for task in tasks if task.identifier and start.startswith(task.identifier.lower())), None)


def question_part(text: str, tasks: Sequence[Task]) -> str:
    """The text without its task identifier."""
    task = task_of(text, tasks)
    return text.strip()[len(task.identifier) :].strip() if task else text.strip()


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


def check_question(text: str, info: ModelInfo, *, num_images: int, has_image: bool) -> None:
    """Raise RequestError for a question that can't be answered; `has_image` counts earlier turns, too."""
    task = task_of(text, info.tasks)
    if not text.strip():
        raise RequestError("Type a question first.")
    if len(text) > MAX_QUESTION_CHARACTERS:
        raise RequestError(f"The question is too long: {len(text)} characters, the limit is {MAX_QUESTION_CHARACTERS}.")
    check_number_of_images(num_images, info)
    if task is not None and not has_image:
        raise RequestError(f"{task.identifier} is about an image: add one first.")
    if not has_image and not info.answers_without_image:
        raise RequestError("This model answers about images only: add one first.")
    if task is None:
        return
    if task.takes_box and not parse_boxes(text):
        raise RequestError(f"{task.identifier} needs a box: draw it on the image, or type its four numbers.")
    if not question_part(text, info.tasks):
        usual = question_part(task.prompt, info.tasks)
        more = f", for example: {usual}" if usual else f". {task.hint}"
        raise RequestError(f"Type something after {task.identifier}{more}")


def check_number_of_images(num_images: int, info: ModelInfo) -> None:
    """Raise RequestError for more images than the model takes in one question."""
    if num_images > info.max_images_per_turn:
        limit = "one image" if info.max_images_per_turn == 1 else f"{info.max_images_per_turn} images"
        raise RequestError(f"This model takes {limit} per question; {num_images} are attached. Remove some.")
