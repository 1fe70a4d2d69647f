"""Tasks of another server's model: the page's buttons, and what is sent for each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

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


CHAT = RemoteTask(label="Chat", hint="Type whatever you want to know about the image.")
# Buttons that several kinds of models have; each gives them its own template.
CAPTION = RemoteTask(
    label="Caption",
    identifier="[caption]",
    prompt="[caption] ",
    hint="A short description of the whole image.",
)
DETECTION = RemoteTask(
    label="Detection",
    identifier="[detection]",
    prompt="[detection] ",
    hint="Type a kind of object to see every place where it occurs.",
    gives_boxes=True,
)
REFER = RemoteTask(
    label="Refer",
    identifier="[refer]",
    prompt="[refer] ",
    hint="Type a phrase for one object in the image to see where it is.",
    gives_boxes=True,
    phrasings=("{}",),
)
IDENTIFY = RemoteTask(
    label="Identify",
    identifier="[identify]",
    prompt="[identify] what is this ",
    hint="Draw a box on the image, then send.",
    takes_box=True,
)


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
