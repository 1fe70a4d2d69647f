"""Tabs that go: the last one to show a conversation leaves it."""

from __future__ import annotations

from collections.abc import Callable

import gradio as gr

from app.page.handlers import Handlers
from app.page.page_state import PageState


def unload_listener(demo: gr.Blocks, handlers: Handlers, page: gr.State) -> Callable[[gr.Request], None]:
    """For gradio's `unload`: a tab was closed, reloaded or has lost its connection.

    gradio ends listeners itself, but only through the stream that carries their output to the browser: it does not
    notice a tab that was closed before its browser had opened that stream.
    """

    def leave(request: gr.Request) -> None:
        mine = demo.state_holder.session_data.get(request.session_hash or "")
        if mine is not None:
            forget_tab(demo, handlers, page, mine[page._id])

    return leave


def forget_tab(demo: gr.Blocks, handlers: Handlers, page: gr.State, shown: PageState) -> None:
    """A tab that showed this has gone, or (gradio's `delete_callback`) was not heard of for long: it leaves the
    conversation, unless another one shows the same page state. gradio has marked it as closed."""
    sessions = list(demo.state_holder.session_data.values())
    if not any(one.state_data.get(page._id) is shown for one in sessions if not one.is_closed):
        handlers.leave(shown)
