"""What a client has used: a rate that refills, and a number of things open at once. Both forget idle clients."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Awaitable, Callable, Coroutine, Generator, Hashable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

from app.limits.refusal import Refused
from engine.asker import Asker, LastServed

REMEMBERED = 16_384  # clients, and browsers; the one that was idle longest is forgotten first
WANTED_SECONDS = 2.0  # after who was served somebody else has no more than his share
T = TypeVar("T")
CONNECTING, OPENING = "who connects", "who opens the page"  # without a cookie yet: in place of a visit
OWN_PART = 1 / 4  # of what its address may take, to each browser for itself
MOST_OWED = 4  # times what a client may have at once: it never waits for long


class Rate:
    """A bucket per client: `burst` at once, refilled by `per_second`."""

    def __init__(self, per_second: float, burst: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_second = per_second
        self._burst = burst
        self._clock = clock
        self._buckets: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()  # client -> when, what is left

    def left(self, client: Hashable) -> float:
        """What the client may still take now."""
        then, left = self._buckets.get(client, (self._clock(), self._burst))
        return min(self._burst, left + (self._clock() - then) * self._per_second)

    def take(self, client: Hashable, amount: float = 1.0) -> bool:
        """Take this much if it is there; whether it was."""
        left = self.left(client)
        if left < amount:
            return False
        self.use(client, amount)
        return True

    def use(self, client: Hashable, amount: float) -> None:
        """Take this much, even below zero: for what is known only afterwards."""
        self._buckets[client] = (self._clock(), self.left(client) - amount)
        self._buckets.move_to_end(client)
        while len(self._buckets) > REMEMBERED:
            self._buckets.popitem(last=False)

    def seconds_until(self, client: Hashable, amount: float = 1.0) -> int:
        """When that much will be there, in whole seconds from now."""
        return max(1, int((amount - self.left(client)) / self._per_second + 0.999))

    def seconds_in_debt(self, client: Hashable) -> float:
        """How long it takes until what was used beyond the bucket is there again; 0 if nothing was."""
        return max(0.0, -self.left(client)) / self._per_second


class AddressRate:
    """A rate of each client. A browser that finds it taken by others of its address has a small one of its own."""

    def __init__(self, per_second: float, burst: float) -> None:
        self._all = Rate(per_second, burst)
        self._own = Rate(per_second * OWN_PART, burst * OWN_PART)

    def left(self, asker: Asker) -> float:
        """What this browser may still take now."""
        all_left = self._all.left(asker.client)
        return max(all_left, self._own.left(asker)) if asker.visit else all_left

    def take(self, asker: Asker, amount: float = 1.0) -> bool:
        """Take this much if it is there; whether it was."""
        if self.left(asker) < amount:
            return False
        self.use(asker, amount)
        return True

    def use(self, asker: Asker, amount: float) -> None:
        """Take this much, even below zero."""
        is_own = asker.visit and self._all.left(asker.client) < amount
        (self._own if is_own else self._all).use(asker if is_own else asker.client, amount)

    def seconds_until(self, asker: Asker, amount: float = 1.0) -> int:
        """When that much will be there for all, in whole seconds from now."""
        return self._all.seconds_until(asker.client, amount)


class ProcessorShare:
    """What of one processor each client takes in the server's own thread, and the lines in which it waits for more.

    It has `share` of it and `at_once` seconds more while others want some, too; alone it may have all of it. So has
    each browser while others of its client want some, and all together that come from there without a cookie. What a
    client owes is for those of its browsers to wait for that took much; the others have a quarter of that share beside.

    Each waits in one line, whatever for, and only the first of it is looked at: a thousand connections wait as one.
    """

    def __init__(self, share: float, at_once: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._at_once = at_once
        self._clock = clock
        self._taken = Rate(share, at_once, lambda: self._clock())  # of clients, and of each of their browsers
        self._taken_by_few = Rate(share / 4, at_once, lambda: self._clock())  # of clients: by browsers that took little
        self._served = LastServed()
        self._served_of: OrderedDict[str, LastServed] = OrderedDict()
        self._lines: dict[Asker, deque[PlaceInLine]] = {}

    def took(self, asker: Asker, seconds: float) -> None:
        """So much went into what a browser asked for. What is beyond all that one may owe is forgotten."""
        if self._taken.left(asker) >= seconds:
            self._taken_by_few.use(asker.client, seconds)
        for who in (asker.client, asker):
            self._taken.use(who, min(seconds, max(0.0, self._taken.left(who) + MOST_OWED * self._at_once)))
        self._served.note(asker.client, self._clock())
        self._served_of.setdefault(asker.client, LastServed()).note(asker, self._clock())
        self._served_of.move_to_end(asker.client)
        while len(self._served_of) > REMEMBERED:
            self._served_of.popitem(last=False)

    def waits(self, asker: Asker) -> float:
        """Seconds until it may have more."""
        own, of_client = self._taken.seconds_in_debt(asker), self._taken.seconds_in_debt(asker.client)
        if not own and of_client:
            of_client = min(of_client, self._taken_by_few.seconds_in_debt(asker.client))
        others_want_some = self._clock() - self._served.other_than(asker.client) <= WANTED_SECONDS
        return max(own if self._neighbours_want_some(asker) else 0.0, of_client if others_want_some else 0.0)

    def _neighbours_want_some(self, asker: Asker) -> bool:
        served = self._served_of.get(asker.client)
        return served is not None and self._clock() - served.other_than(asker) <= WANTED_SECONDS

    def must_wait(self, asker: Asker) -> bool:
        """Whether it may have no more now, or something of it waits already."""
        return asker in self._lines or self.waits(asker) > 0

    def line_up(self, asker: Asker, begin: Callable[[], object]) -> PlaceInLine:
        """Call `begin`, which takes a step, in this browser's turn: not before the loop has looked at all others."""
        place = PlaceInLine(begin)
        if asker in self._lines:
            self._lines[asker].append(place)
        else:
            self._lines[asker] = deque([place])
            asyncio.get_running_loop().call_soon(self._serve_line, asker)
        return place

    async def turn(self, asker: Asker) -> None:
        """Wait until a browser may have more."""
        if not self.must_wait(asker):
            return
        turn = asyncio.Event()
        place = self.line_up(asker, turn.set)
        try:
            await turn.wait()
        finally:
            place.cancel()

    def _serve_line(self, asker: Asker) -> None:
        """Begin what is first in a line, if its browser may have more, and come back when the next may begin."""
        line, loop = self._lines[asker], asyncio.get_running_loop()
        while line and line[0].begin is None:
            line.popleft()
        if not line:
            del self._lines[asker]
            return
        if (seconds := self.waits(asker)) > 0:
            loop.call_later(seconds, self._serve_line, asker)
            return
        begin = line.popleft().begin
        loop.call_soon(self._after, asker)  # behind what this begins, so that it has been counted
        if begin is not None:
            begin()

    def _after(self, asker: Asker) -> None:
        asyncio.get_running_loop().call_soon(self._serve_line, asker)


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


PAYER: ContextVar[Callable[[float], None] | None] = ContextVar("payer", default=None)  # of tasks that are begun


def metered_task(
    loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, T], **settings: Any
) -> asyncio.Task[T]:
    """A task, as asyncio makes them; its steps are told to the PAYER, if there is one.

    What a stream sends is made in a task of its own, of which who awaits its request sees nothing.
    """
    took = PAYER.get()
    return asyncio.Task(coroutine if took is None else _metered(coroutine, took), loop=loop, **settings)


async def _metered(coroutine: Coroutine[Any, Any, T], took: Callable[[float], None]) -> T:
    return await Metered(coroutine, took)


class Gauge:
    """How many of something each client has open; clients with none take no memory.

    Where a client has its number, those of its browsers are refused that have an equal part of it or more: one that
    has taken all keeps out no other of its address.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.total = 0
        self._open: dict[str, Counter[Asker]] = {}

    def of(self, client: str) -> int:
        """How many the client has open."""
        return self._open[client].total() if client in self._open else 0

    @contextmanager
    def held(self, asker: Asker, reason: str) -> Iterator[None]:
        """One more for the time of the block. Raises Refused with 429 when the client has its number already."""
        if has_its_part(self._open.get(asker.client, {}), asker, self.limit):
            raise Refused(429, reason, retry_after=5)
        self._add(asker, 1)
        try:
            yield
        finally:
            self._add(asker, -1)

    def _add(self, asker: Asker, amount: int) -> None:
        self.total += amount
        opened = self._open.setdefault(asker.client, Counter())
        opened[asker] += amount
        if not opened[asker]:
            del opened[asker]
        if not opened:
            del self._open[asker.client]


def has_its_part(held: Mapping[Asker, int], asker: Asker, limit: float) -> bool:
    """Whether the browsers of a client hold all that it may, and this one as many as would be its part if all of them
    had the same."""
    return sum(held.values()) >= limit and held.get(asker, 0) * len(held.keys() | {asker}) >= limit
