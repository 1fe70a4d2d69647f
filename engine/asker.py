"""Who asks: a client and one of its browsers, so that places at the model, decoders and memory are shared fairly.

The layer in front of the server sets it for each request (app/limits); in the terminal and in tests it is NOBODY.
"""

from __future__ import annotations

import math
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable, Iterable
from contextvars import ContextVar
from itertools import count
from typing import NamedTuple, TypeVar

REMEMBERED = 4096  # clients and visits, with when their last turn was and what they used
LITTLE_PART = 1 / 8  # of what its address used, is little for a browser
HALF_LIFE = 60.0  # seconds after which half of what somebody used counts no more

Waiting = TypeVar("Waiting")


class Asker(NamedTuple):
    """Whose request it is: `client` is a network address, `visit` one browser of those behind that address."""

    client: str = ""
    visit: str = ""


NOBODY = Asker()
ASKER: ContextVar[Asker] = ContextVar("asker", default=NOBODY)


def kept_back(places: int) -> int:
    """How many of so many places who has one already leaves to those who have none; none where there are few."""
    return max(1, places // 8) if places >= 4 else 0


class LastServed:
    """When somebody was last served, and when somebody else was."""

    def __init__(self) -> None:
        self._who: Hashable = None
        self._when = self._others = -math.inf

    def note(self, who: Hashable, when: float) -> None:
        """This one is served now."""
        if who != self._who:
            self._who, self._others = who, self._when
        self._when = when

    def other_than(self, who: Hashable) -> float:
        """When the last one was that is not this one."""
        return self._others if who == self._who else self._when


class Rounds:
    """Round-robin over addresses, and over the browsers of each address: who is being served, and who is next.

    Where it is said how much each request used, of whatever the places are for, who used least lately comes first.
    Not thread-safe: to be used under a lock, or in one thread.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._running: Counter[str | Asker] = Counter()
        self._last: OrderedDict[str | Asker, int] = OrderedDict()
        self._used: dict[str | Asker, tuple[float, float]] = {}  # of those in `_last`: when, and how much it was then
        self._numbers = count(1)
        self.total = 0

    def begin(self, asker: Asker) -> None:
        """A request of this asker is being served from now on."""
        self.total += 1
        self._running.update((asker.client, asker))
        for who in (asker.client, asker):
            self._last[who] = next(self._numbers)
            self._last.move_to_end(who)
        while len(self._last) > REMEMBERED:
            self._used.pop(self._last.popitem(last=False)[0], None)

    def end(self, asker: Asker, used: float = 0.0) -> None:
        """A request of this asker is done, and has used so much."""
        self.total -= 1
        self._running.subtract((asker.client, asker))
        self._running += Counter()  # without those that have none
        for who in (asker.client, asker):
            if used and who in self._last:
                self._used[who] = self._clock(), self.used(who) + used

    def used(self, who: str | Asker) -> float:
        """How much an address, or one of its browsers, has used lately."""
        then, amount = self._used.get(who, (0.0, 0.0))
        return amount * 0.5 ** ((self._clock() - then) / HALF_LIFE) if amount else 0.0

    def recount(self, askers: Iterable[Asker]) -> None:
        """Set what is being served: one request for each of these askers."""
        self._running = Counter(who for asker in askers for who in (asker.client, asker))

    def of_client(self, client: str) -> int:
        """How many requests of an address are being served."""
        return self._running[client]

    def of_asker(self, asker: Asker) -> int:
        """How many requests of one browser are being served."""
        return self._running[asker]

    def may_begin(self, asker: Asker, most: int, places: int) -> bool:
        """Whether one more of this asker's leaves to others what is theirs, where an address may have `most` of these
        places at once: of those it leaves some to browsers of its address that have none."""
        left = kept_back(places) if self.of_asker(asker) else 0
        return self.of_client(asker.client) < most - left

    def order(self, waiting: Iterable[Waiting], asker_of: Callable[[Waiting], Asker]) -> list[Waiting]:
        """Sort waiting requests, given by arrival, into the order of service: in each round one of every address.

        Requests that are being served count as rounds that an address has had. Within a round, the address that used
        least comes first, and of equal ones that whose last request began longest ago. So do the browsers of an
        address, but for those that nothing is known of: they come behind one that was there and used little, which
        need not wait for a crowd that has just been made up.
        """
        waiting = list(waiting)
        least: dict[str, float] = {}  # that somebody of an address used who was there before, and waits again
        for asker in map(asker_of, waiting):
            if asker in self._last:
                least[asker.client] = min(self.used(asker), least.get(asker.client, math.inf))
        least = {who: used for who, used in least.items() if self.used(who) and used <= LITTLE_PART * self.used(who)}
        browsers = self._by_rounds(waiting, asker_of, least)
        return self._by_rounds(browsers, lambda one: asker_of(one).client, {})

    def _by_rounds(
        self, waiting: Iterable[Waiting], whose: Callable[[Waiting], str | Asker], least: dict[str, float]
    ) -> list[Waiting]:
        rounds = Counter(self._running)
        keyed: list[tuple[int, float, float, int, Waiting]] = []
        for place, one in enumerate(waiting):
            who = whose(one)
            is_first = rounds[who] == self._running[who]  # before another of the same has its turn
            before: tuple[float, float] = (self.used(who), self._last.get(who, 0)) if is_first else (math.inf, math.inf)
            if is_first and isinstance(who, Asker) and who not in self._last:
                before = least.get(who.client, 0.0), math.inf if who.client in least else 0
            keyed.append((rounds[who], *before, place, one))
            rounds[who] += 1
        return [key[-1] for key in sorted(keyed, key=lambda key: key[:4])]
