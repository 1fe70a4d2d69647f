"""Gradio's queue, served by turns: nobody's many questions stand before somebody's one.

Gradio begins the questions of all visitors as they came. Here it is each address's turn, and each browser's of that
address; and of the places of a kind of listener no address has more than three quarters.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from app.limits.addresses import SCOPE_KEY
from engine.asker import NOBODY, Asker, Rounds

if TYPE_CHECKING:
    from gradio.queueing import Event, EventQueue, Queue

MOST = 3 / 4  # of the places, of one address


class FairQueue:
    """Says which event a queue of gradio's begins next. None of the page's listeners takes several at once."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self._rounds: defaultdict[str, Rounds] = defaultdict(Rounds)
        self._found_none: dict[str, tuple[str, int, int, int]] = {}  # gradio asks a thousand times a second
        self._num_begun = 0

    def get_events(self) -> tuple[list[Event], bool, str] | None:
        """As gradio's: what comes next, taken out of the queue; None where nothing waits that may begin."""
        for name, waiting in self._queue.event_queue_per_concurrency_id.items():
            event = self._next(name, waiting)
            if event is not None:
                waiting.queue.remove(event)
                self._rounds[name].begin(_asker_of(event))
                self._num_begun += 1
                return [event], False, name
        return None

    def _next(self, name: str, waiting: EventQueue) -> Event | None:
        limit, running = waiting.concurrency_limit, waiting.current_concurrency
        if not waiting.queue or (limit is not None and running >= limit):
            return None
        state = (waiting.queue[-1]._id, len(waiting.queue), running, self._num_begun)
        if self._found_none.get(name) == state:
            return None
        rounds = self._rounds[name]
        jobs = (event for job in self._queue.active_jobs for event in job or ())
        rounds.recount(_asker_of(event) for event in jobs if event.concurrency_id == name)
        most = max(1, int(limit * MOST)) if limit is not None else None
        for event in rounds.order(waiting.queue, _asker_of):
            if most is None or rounds.of_client(_asker_of(event).client) < most:
                return event
        self._found_none[name] = state
        return None


def _asker_of(event: Event) -> Asker:
    asker = event.request.scope.get(SCOPE_KEY, NOBODY)
    assert isinstance(asker, Asker)
    return asker
