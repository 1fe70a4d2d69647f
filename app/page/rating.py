"""Thumbs under the answers, where the operator keeps what visitors think."""

from __future__ import annotations

from typing import Any

import gradio as gr

from app.chat.feedback import FeedbackFile, Rating
from app.page.handlers import Handlers, View
from app.page.notices import notice_of
from app.page.page_state import PageState
from models.errors import MiniVLMError


class Ratings:
    """The listener."""

    def __init__(self, handlers: Handlers, file: FeedbackFile) -> None:
        self._handlers, self._file = handlers, file

    def rate(self, page: PageState, event: gr.EventData) -> View:
        """A thumb was pressed; pressed again, it is taken back."""
        index, exchanges = int(event.index), page.session.exchanges
        pressed: Rating = "up" if event.rating == "up" else "down"
        try:
            exchange = page.session.exchange(index)
            rating: Rating = "" if exchange.rating == pressed else pressed
            self._file.rate(exchanges, index, rating)
        except MiniVLMError as error:
            return View(notice=notice_of(page, error))
        exchange.rating = rating
        return View(self._handlers.messages(page))


def add_rating(handlers: Handlers, file: FeedbackFile, bridge: gr.HTML, page: gr.State, quick: dict[str, Any]) -> None:
    """Connect the thumbs. `quick`: how the page's short listeners are called."""
    bridge.rate(Ratings(handlers, file).rate, [page], **quick)
