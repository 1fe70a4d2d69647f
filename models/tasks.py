"""Task identifiers: what a family was trained to be asked. The app makes its task buttons from them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Task:
    """One kind of question.

    `identifier` is the token text in front of the question ("[vqa]", empty for free chat), `prompt` what the button
    puts into the text box, `hint` one sentence under it. `takes_box`: the user draws a box, whose text is appended
    to the question. `gives_boxes`: the answer contains boxes to draw. `phrasings`: how the question asks for one thing
    by its phrase, with `{}` in the phrase's place; answers are then boxes alone, which show that thing.
    """

    label: str
    prompt: str
    hint: str
    identifier: str = ""
    takes_box: bool = False
    gives_boxes: bool = False
    phrasings: tuple[str, ...] = ()
