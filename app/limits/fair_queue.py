"""What waits is served by turns, gradio's queue and whatever else: nobody's many stand before somebody's one.

Gradio begins the questions of all visitors as they came. Here it is each address's turn, and each browser's of that
address; and of the places of a kind of listener no address has more than three quarters, the last of which are for its
browsers that have none.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from app.limits.addresses import SCOPE_KEY
from app.limits.refusal import Refused
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
        for event in rounds.order(waiting.queue, _asker_of):
            if limit is None or rounds.may_begin(_asker_of(event), max(1, int(limit * MOST)), limit):
                return event
        self._found_none[name] = state
        return None


def _asker_of(event: Event) -> Asker:
    asker = event.request.scope.get(SCOPE_KEY, NOBODY)
    assert isinstance(asker, Asker)
    return asker


@dataclass
class _Lane:
    served: Rounds = field(default_factory=Rounds)
    waiting: list[tuple[Asker, asyncio.Event]] = field(default_factory=list)


class Lanes:
    """A few things at once for each user; more of them wait, so that nobody's many stand before somebody's one.

    Where a user is an address it is said which of its browsers asks: they take turns, as everywhere.
    """

    def __init__(self, at_once: int, waiting: int) -> None:
        self._at_once, self._waiting = at_once, waiting
        self._lanes: dict[Hashable, _Lane] = {}

    def __len__(self) -> int:
        """How many users have something running or waiting."""
        return len(self._lanes)

    @asynccontextmanager
    async def held(self, user: Hashable, reason: str, asker: Asker | None = None) -> AsyncIterator[None]:
        """Wait for a place, and hold it for the time of the block. Raises Refused with 429 if too many wait already."""
        lane = self._lanes.setdefault(user, _Lane())
        if lane.served.total + len(lane.waiting) >= self._at_once + self._waiting:
            raise Refused(429, reason, retry_after=5)
        place = (asker or NOBODY, asyncio.Event())
        lane.waiting.append(place)
        self._give(lane)
        try:
            await place[1].wait()
            yield
        finally:
            if place in lane.waiting:
                lane.waiting.remove(place)
            else:
                lane.served.end(place[0])
            self._give(lane)
            if not (lane.served.total or lane.waiting):
                del self._lanes[user]

    def _give(self, lane: _Lane) -> None:
        for place in lane.served.order(lane.waiting, lambda one: one[0]):
            asker, turn = place
            if lane.served.may_begin(asker, self._at_once, 0 if asker == NOBODY else self._at_once):
                lane.waiting.remove(place)
                lane.served.begin(asker)
                turn.set()
