"""The text box, and what is changed in it from outside.

What it holds goes on changing while the server works. So the server does not say what is in it, but what is to change
there, and the browser does that to what the box holds by then (assets/scripts/box.js). Only what replaces all of it,
an earlier question for example, is a value of the component itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import count
from mimetypes import guess_type
from pathlib import Path
from typing import Any

import gradio as gr

from app.chat.encoding import well_formed

_NUMBERS = count()  # gradio tells of no change where a value is the same as the one before


def renamed(files: Mapping[str, str | None]) -> dict[str, Any]:
    """These files (paths as the text box has them) become others; those that become None are taken out."""
    return {
        "number": next(_NUMBERS),
        "renamed": {before: None if file is None else _file_data(file) for before, file in files.items()},
    }


def replaced(files: Sequence[str]) -> dict[str, Any]:
    """The text box gets these files in place of its own."""
    return {"number": next(_NUMBERS), "replaced": [_file_data(file) for file in files]}


def _file_data(path: str) -> dict[str, Any]:
    return gr.FileData(path=path, orig_name=Path(path).name, mime_type=guess_type(path)[0]).model_dump()


def taken_from_box(text: str, files: Sequence[str]) -> dict[str, Any]:
    """A question that was sent leaves the text box: its text, and its files (paths as the text box has them)."""
    return {"number": next(_NUMBERS), "text": well_formed(text), "files": list(files)}


class QuestionBox:
    """The components: the text box, and two that are not shown and bring what changes in it."""

    def __init__(self) -> None:
        self.question = gr.MultimodalTextbox(
            elem_id="mv-question",
            label="Question",
            show_label=False,
            container=False,
            placeholder="Add an image and ask about it",
            file_types=None,  # what a file holds decides, not its name: our own listener refuses what is no picture
            file_count="multiple",
            sources=["upload"],
            lines=1,
            max_lines=8,
            max_plain_text_length=10**9,  # no paste becomes a text file; one that is too long is refused as a question
        )
        self.files = gr.HTML(None, html_template="", elem_id="mv-files", visible="hidden")
        self.taken = gr.HTML(None, html_template="", elem_id="mv-taken", visible="hidden")

    def connect(self) -> None:
        """What the hidden components bring is done to the text box."""
        for told, function in ((self.files, "withFiles"), (self.taken, "withoutTaken")):
            js = f"(value, told) => window.minivlm.{function}(value, told)"
            told.change(None, [self.question, told], self.question, js=js)
        self.question.change(None, [self.question], js="(value) => window.minivlm.questionChanged(value)")
