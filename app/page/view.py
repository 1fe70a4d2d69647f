"""What a listener returns to gradio: new values for parts of the page."""

from __future__ import annotations

from typing import Any, NamedTuple

import gradio as gr


class View(NamedTuple):
    """New values of the parts of the page; what stays as it is, is skipped."""

    chat: Any = gr.skip()
    question: Any = gr.skip()
    notice: Any = gr.skip()
    tool: Any = gr.skip()
    page: Any = gr.skip()  # its PageState, given back once per question: that starts its time to live
    key: Any = gr.skip()  # of the conversation that the page shows
    files: Any = gr.skip()  # other files for the text box: `renamed` or `replaced` of question/box.py
    taken: Any = gr.skip()  # what leaves the text box: `taken_from_box`, there


def answering(**changes: Any) -> Any:
    """The text box while an answer is written: Stop instead of Send. It stays open for the next question."""
    return gr.update(submit_btn=False, stop_btn=True, **changes)


def idle(**changes: Any) -> Any:
    """The text box when nothing is running."""
    return gr.update(submit_btn=True, stop_btn=False, **changes)
