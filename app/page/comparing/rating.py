"""Thumbs under answers, and votes under two of them, where the operator keeps what visitors think."""

from __future__ import annotations

from typing import Any

import gradio as gr

from app.chat.feedback import FeedbackFile, Rating
from app.limits.budgets import Rate
from app.page.comparing.bubbles import VOTES
from app.page.handlers import Handlers
from app.page.notices import notice_of
from app.page.page_state import PageState
from app.page.view import View
from engine.asker import ASKER
from models.errors import MiniVLMError, RequestError

PER_SECOND, AT_ONCE = 0.5, 30  # ratings of one address


class Ratings:
    """The listeners."""

    def __init__(self, handlers: Handlers, file: FeedbackFile) -> None:
        self._handlers, self._file = handlers, file
        self._rate = Rate(PER_SECOND, AT_ONCE)

    def rate(self, page: PageState, event: gr.EventData) -> View:
        """A thumb was pressed; pressed again, it is taken back."""
        index, exchanges = int(event.index), page.session.exchanges
        pressed: Rating = "up" if event.rating == "up" else "down"
        try:
            exchange = page.session.exchange(index)
            rating: Rating = "" if exchange.rating == pressed else pressed
            self._count()
            self._file.rate(exchanges, index, rating)
        except MiniVLMError as error:
            return View(notice=notice_of(page, error))
        exchange.rating = rating
        return View(self._handlers.messages(page))

    def vote(self, page: PageState, event: gr.EventData) -> View:
        """Which of two answers is better was said; said again, it is taken back."""
        index, exchanges = int(event.index), page.session.exchanges
        try:
            pair = page.session.exchange(index).pair
            if pair is None or event.vote not in VOTES:
                raise RequestError("There is nothing to vote on: that question has one answer only.")
            vote = "" if pair.vote == event.vote else str(event.vote)
            self._count()
            self._file.vote(exchanges, index, vote)
        except MiniVLMError as error:
            return View(notice=notice_of(page, error))
        pair.vote = vote
        return View(self._handlers.messages(page))

    def _count(self) -> None:
        """Raise RequestError where an address rates without a pause: each time is a line in the file."""
        if not self._rate.take(ASKER.get().client):
            raise RequestError("Too many ratings from this address. Wait a moment.")


def add_rating(handlers: Handlers, file: FeedbackFile, bridge: gr.HTML, page: gr.State, quick: dict[str, Any]) -> None:
    """Connect thumbs and votes. `quick`: how the page's short listeners are called."""
    ratings = Ratings(handlers, file)
    bridge.rate(ratings.rate, [page], **quick)
    bridge.vote(ratings.vote, [page], **quick)
