"""Tabs that go: the last one to show a conversation leaves it."""

from __future__ import annotations

from collections.abc import Callable

import gradio as gr

from app.page.handlers import Handlers
from app.page.page_state import PageState


def unload_listener(demo: gr.Blocks, handlers: Handlers, page: gr.State) -> Callable[[gr.Request], None]:
    """For gradio's `unload`: a tab was closed, reloaded or has lost its connection. It leaves the conversation, unless
    another tab shows the same page state.

    gradio ends listeners itself, but only through the stream that carries their output to the browser: it does not
    notice a tab that was closed before its browser had opened that stream.
    """

    def leave(request: gr.Request) -> None:
        sessions = demo.state_holder.session_data
        mine = sessions.get(request.session_hash or "")
        if mine is None:
            return
        shown = mine[page._id]
        others = [one for one in list(sessions.values()) if one is not mine and not one.is_closed]
        if not any(one.state_data.get(page._id) is shown for one in others):
            handlers.leave(shown)

    return leave


def forget_tab(demo: gr.Blocks, handlers: Handlers, page: gr.State, shown: PageState) -> None:
    """For gradio's `delete_callback`: it drops the state of a tab that it has not heard of for long.

    Tabs whose closing was never reported leave the conversation here, unless another tab shows the same page state.
    """
    sessions = list(demo.state_holder.session_data.values())
    showing = [one for one in sessions if one.state_data.get(page._id) is shown and not one.is_closed]
    if len(showing) <= 1:  # the one that is being forgotten
        handlers.leave(shown)
