"""What is in the text box while an earlier question is edited there."""

from __future__ import annotations

import gradio as gr

from app.page.handlers import Handlers
from app.page.page_state import PageState
from tests.app.page.sidebar import SETTINGS, typed
from tests.fakes import ScriptedModel


def test_what_is_put_aside_counts_and_has_an_end() -> None:
    """A draft of four megabytes was kept in each session, beside every budget."""
    handlers, page = Handlers(ScriptedModel()), PageState()
    list(handlers.ask(page, "", typed("hello"), None, *SETTINGS))
    before = sum(page.sizes().values())
    event = gr.EventData(None, {"index": 0})
    handlers.edit(page, typed("x" * 1000, "a" * 10), event)
    assert sum(page.sizes().values()) - before >= 4 * 1010
    page.cancel_edit()
    view = handlers.edit(page, typed("x" * 100_001), event)
    assert "the most that can be put aside" in view.notice
    assert (page.editing, page.draft) == (None, None)
