"""Between what is typed and what is sent: one form for what the program understands in a question.

What is understood (a task, a box) is written as the model was trained to read it, so that both mean the same; what
nobody sees is taken away. The result is the question from then on: it is shown, and it is sent.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from app.chat.encoding import well_formed
from app.chat.questions import task_of
from models.errors import RequestError
from models.grounding import BINS, Box, canonical_boxes, format_box, parse_boxes
from models.tasks import Task

_LINE_ENDS = re.compile("\r\n|[\r\v\f\x1c-\x1e\x85\u2028\u2029]")
# Control characters, marks of byte order and direction, spaces of no width, fillers, tags.
_INVISIBLE = re.compile(
    "[\x00-\x08\x0e-\x1b\x1f\x7f-\x84\x86-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b\u200e\u200f"
    "\u202a-\u202e\u2060-\u206f\u3164\ufeff\uffa0\ufff9-\ufffb\U0001d173-\U0001d17a\U000e0000-\U000e007f]"
)
_JOINERS = "\u200c\u200d"  # they stay where they join something: emoji and scripts need them
_LOOSE = re.compile(f"(?<![^\0-\x7f{_JOINERS}])[{_JOINERS}]+|[{_JOINERS}]+(?![^\0-\x7f])")
_SPACES = re.compile("[\xa0\u1680\u2000-\u200a\u202f\u205f\u2800\u3000]")
_NUMBER = r"-?\d{1,9}(?:\.\d{0,9})?"
_FOUR = re.compile(rf"(?<![\d.-])[\[({{<]?\s*{_NUMBER}(?:(?:\s*,\s*|\s+){_NUMBER}){{3}}\s*[\])}}>]?\s*$")

_LONGEST = 200  # characters that four numbers take


def normalise(text: str, tasks: Sequence[Task]) -> str:
    """The question in the form that is shown and sent. Raises RequestError for a box that is none."""
    text = plain(text)
    if not tasks:
        return text
    if any(task.takes_box or task.gives_boxes for task in tasks):
        text = canonical_boxes(text)
    task = task_of(text, tasks)
    if task is None:
        return text
    rest = text[len(task.identifier) :].strip()
    if task.takes_box and not parse_boxes(rest):
        rest = _typed_box(rest)
    return f"{task.identifier} {rest}".rstrip()


def plain(text: str) -> str:
    """The text with one kind of line end and space, without what can't be seen, and with whole characters only."""
    text = _LINE_ENDS.sub("\n", well_formed(text))
    return _LOOSE.sub("", _SPACES.sub(" ", _INVISIBLE.sub("", text))).strip()


def _typed_box(rest: str) -> str:
    """Four numbers at the end become a box: of the grid from 0 to 100, or fractions where all have a point."""
    found = _FOUR.search(rest, max(0, len(rest) - _LONGEST))
    if found is None:
        return rest
    numbers = re.findall(_NUMBER, found[0])
    values = [float(number) for number in numbers]
    scale = 1 if all("." in number for number in numbers) and max(values) <= 1 else BINS
    if not all(0 <= value <= scale for value in values):
        raise RequestError(
            f"A box has four numbers from 0 to {BINS}, in percent of the image: left, top, right, bottom."
        )
    box = Box.from_corners(*(value / scale for value in values))
    return f"{rest[: found.start()].rstrip()} {format_box(box)}".lstrip()
