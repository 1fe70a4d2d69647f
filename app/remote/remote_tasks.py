"""Tasks of another server's model: the page's buttons, and what is sent for each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from app.chat.questions import question_part, task_of
from models.grounding import Box, parse_boxes, replace_boxes
from models.tasks import Task


@dataclass(frozen=True, kw_only=True)
class RemoteTask(Task):
    """A task with the text that is sent for it.

    In `template` `{}` is what was typed after the identifier, `{box}` the box that was drawn, in the model's own
    writing. A template without `{}` is sent as it is. `prompt` and `hint` may be left out of a YAML.
    """

    prompt: str = ""
    hint: str = ""
    template: str = "{}"


def asked_as(template: str, task: Task, **changes: Any) -> RemoteTask:
    """A task that other models have as well, with the text that is sent for it and what else differs."""
    return RemoteTask(**{**vars(task), **changes, "template": template})


def sent_text(text: str, tasks: Sequence[Task], write_box: Callable[[Box], str]) -> str:
    """A question as the model is asked it: by its task's template, with boxes as `write_box` writes them."""

    def write(box: Box) -> str:
        return write_box(box.in_cell_middles())

    task = task_of(text, tasks)
    template = task.template if isinstance(task, RemoteTask) else "{}"
    typed = question_part(text, tasks)
    if "{box}" in template:
        boxes = [write(box) for box in parse_boxes(typed)]
        typed = " ".join(replace_boxes(typed, lambda _: "").split())
        template = template.replace("{box}", " ".join(boxes))
    typed = replace_boxes(typed, write)
    return template.replace("{}", typed).strip()
