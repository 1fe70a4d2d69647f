"""What a client has used: a rate that refills, and a number of things open at once. Both forget idle clients."""

from __future__ import annotations

import asyncio
import math
import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator, Hashable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from app.limits.refusal import Refused

REMEMBERED = 16_384  # clients; the one that was idle longest is forgotten first
WANTED_SECONDS = 2.0  # after who was served somebody else has no more than his share
T = TypeVar("T")
MOST_OWED = 4  # times what a client may have at once: it never waits for long


class Rate:
    """A bucket per client: `burst` at once, refilled by `per_second`."""

    def __init__(self, per_second: float, burst: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_second = per_second
        self._burst = burst
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # client -> when, what is left

    def left(self, client: str) -> float:
        """What the client may still take now."""
        then, left = self._buckets.get(client, (self._clock(), self._burst))
        return min(self._burst, left + (self._clock() - then) * self._per_second)

    def take(self, client: str, amount: float = 1.0) -> bool:
        """Take this much if it is there; whether it was."""
        left = self.left(client)
        if left < amount:
            return False
        self.use(client, amount)
        return True

    def use(self, client: str, amount: float) -> None:
        """Take this much, even below zero: for what is known only afterwards."""
        self._buckets[client] = (self._clock(), self.left(client) - amount)
        self._buckets.move_to_end(client)
        while len(self._buckets) > REMEMBERED:
            self._buckets.popitem(last=False)

    def seconds_until(self, client: str, amount: float = 1.0) -> int:
        """When that much will be there, in whole seconds from now."""
        return max(1, int((amount - self.left(client)) / self._per_second + 0.999))

    def seconds_in_debt(self, client: str) -> float:
        """How long it takes until what was used beyond the bucket is there again; 0 if nothing was."""
        return max(0.0, -self.left(client)) / self._per_second


class ProcessorShare:
    """What of one processor each client takes in the server's own thread, and the lines in which it waits for more.

    It has `share` of it and `at_once` seconds more while others want some, too; alone it may have all of it. A client
    waits in one line, whatever for, and only the first of it is looked at: a thousand connections wait as one does.
    """

    def __init__(self, share: float, at_once: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._at_once = at_once
        self._clock = clock
        self._taken = Rate(share, at_once, lambda: self._clock())
        self._served: OrderedDict[str, float] = OrderedDict()  # when each client last was, the latest at the end
        self._lines: dict[str, deque[PlaceInLine]] = {}

    def took(self, client: str, seconds: float) -> None:
        """So much went into what a client asked for. What is beyond all that it may owe is forgotten."""
        self._taken.use(client, min(seconds, max(0.0, self._taken.left(client) + MOST_OWED * self._at_once)))
        self._served[client] = self._clock()
        self._served.move_to_end(client)
        while len(self._served) > REMEMBERED:
            self._served.popitem(last=False)

    def waits(self, client: str) -> float:
        """Seconds until it may have more."""
        others = (when for other, when in reversed(self._served.items()) if other != client)
        if self._clock() - next(others, -math.inf) > WANTED_SECONDS:
            return 0.0
        return self._taken.seconds_in_debt(client)

    def must_wait(self, client: str) -> bool:
        """Whether it may have no more now, or something of it waits already."""
        return client in self._lines or self.waits(client) > 0

    def line_up(self, client: str, begin: Callable[[], object]) -> PlaceInLine:
        """Call `begin`, which takes a step, in this client's turn: not before the loop has looked at all others."""
        place = PlaceInLine(begin)
        if client in self._lines:
            self._lines[client].append(place)
        else:
            self._lines[client] = deque([place])
            asyncio.get_running_loop().call_soon(self._serve_line, client)
        return place

    async def turn(self, client: str) -> None:
        """Wait until a client may have more."""
        if not self.must_wait(client):
            return
        turn = asyncio.Event()
        place = self.line_up(client, turn.set)
        try:
            await turn.wait()
        finally:
            place.cancel()

    def _serve_line(self, client: str) -> None:
        """Begin what is first in a line, if its client may have more, and come back when the next may begin."""
        line, loop = self._lines[client], asyncio.get_running_loop()
        while line and line[0].begin is None:
            line.popleft()
        if not line:
            del self._lines[client]
            return
        if (seconds := self.waits(client)) > 0:
            loop.call_later(seconds, self._serve_line, client)
            return
        begin = line.popleft().begin
        loop.call_soon(self._after, client)  # behind what this begins, so that it has been counted
        if begin is not None:
            begin()

    def _after(self, client: str) -> None:
        asyncio.get_running_loop().call_soon(self._serve_line, client)


class PlaceInLine:
    """Something that waits in a client's line."""

    def __init__(self, begin: Callable[[], object]) -> None:
        self.begin: Callable[[], object] | None = begin

    def cancel(self) -> None:
        """It is not to begin any more."""
        self.begin = None


class Metered(Awaitable[T]):
    """A coroutine; while it is awaited, `took` hears the processor's time of each of its steps, in seconds."""

    def __init__(self, coroutine: Coroutine[Any, Any, T], took: Callable[[float], None]) -> None:
        self._coroutine, self._took = coroutine, took

    def __await__(self) -> Generator[Any, Any, T]:
        step: Callable[[Any], Any] = self._coroutine.send
        value: Any = None
        while True:
            begun = time.thread_time()
            try:
                awaited = step(value)
            except StopIteration as end:
                result: T = end.value
                return result
            finally:
                self._took(time.thread_time() - begun)
            try:
                value = yield awaited
                step = self._coroutine.send
            except BaseException as error:  # as a cancellation, which is for the coroutine
                step, value = self._coroutine.throw, error


class Gauge:
    """How many of something each client has open; clients with none take no memory."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.total = 0
        self._open: dict[str, int] = {}

    def of(self, client: str) -> int:
        """How many the client has open."""
        return self._open.get(client, 0)

    @contextmanager
    def held(self, client: str, reason: str) -> Iterator[None]:
        """One more for the time of the block. Raises Refused with 429 when the client has its number already."""
        if self.of(client) >= self.limit:
            raise Refused(429, reason, retry_after=5)
        self.add(client, 1)
        try:
            yield
        finally:
            self.add(client, -1)

    def add(self, client: str, amount: int) -> None:
        """Change the number without a check."""
        self.total += amount
        count = self.of(client) + amount
        if count > 0:
            self._open[client] = count
        else:
            self._open.pop(client, None)


@dataclass
class _Lane:
    places: asyncio.Semaphore
    users: int = field(default=0)


class Lanes:
    """A few things at once for each user; more of them wait, so that nobody's many stand before somebody's one."""

    def __init__(self, at_once: int, waiting: int) -> None:
        self._at_once, self._waiting = at_once, waiting
        self._lanes: dict[Hashable, _Lane] = {}

    def __len__(self) -> int:
        """How many users have something running or waiting."""
        return len(self._lanes)

    @asynccontextmanager
    async def held(self, user: Hashable, reason: str) -> AsyncIterator[None]:
        """Wait for a place, and hold it for the time of the block. Raises Refused with 429 if too many wait already."""
        lane = self._lanes.setdefault(user, _Lane(asyncio.Semaphore(self._at_once)))
        if lane.users >= self._at_once + self._waiting:
            raise Refused(429, reason, retry_after=5)
        lane.users += 1
        try:
            async with lane.places:
                yield
        finally:
            lane.users -= 1
            if not lane.users:
                del self._lanes[user]
