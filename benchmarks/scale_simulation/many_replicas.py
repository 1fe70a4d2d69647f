"""Many replicas: who is asked, when there are more of them, and what the visitors notice."""

from __future__ import annotations

import bisect
import hashlib
import heapq
import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from benchmarks.scale_simulation.one_replica import SimulatedReplica, SimulatedTurn, StepTimes

RETRY_SECONDS = 5.0  # until a client that was refused asks again
VIRTUAL_NODES = 100  # of a replica on the ring, as Ray Serve has it


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """How many replicas, as Ray Serve decides it: so many that each has `target` questions, looked at `every` seconds,
    after it has been so for `up_delay` or `down_delay`. A new one is ready after `loading` seconds.
    Of those that are too many a look takes the share `down_factor`.
    `most_questions` at one replica; then the next on the ring is asked, of `fallbacks` more."""

    least: int = 1
    most: int = 1
    first: int = 0  # that are there at the beginning, if more than `least`
    target: float = 32.0
    every: float = 10.0
    up_delay: float = 30.0
    down_delay: float = 600.0
    down_factor: float = 1.0
    loading: float = 60.0
    most_questions: int = 64
    fallbacks: int = 2


@dataclass(frozen=True)
class Talk:
    """Begins at `starts`; its turns are pairs of new prompt tokens and tokens of the answer, `think` seconds apart."""

    starts: float
    turns: tuple[tuple[int, int], ...]
    think: float = 0.0
    replica: int | None = None  # where it goes, instead of where its name hashes to


class Ring:
    """A consistent hash: when a replica comes or goes, only its share of the conversations moves."""

    def __init__(self) -> None:
        self._points: list[tuple[int, int]] = []

    def add(self, *numbers: int) -> None:
        """Replicas."""
        self._points += [(_hash(f"{number}/{node}"), number) for number in numbers for node in range(VIRTUAL_NODES)]
        self._points.sort()  # which is fast, as most of it is sorted

    def remove(self, *numbers: int) -> None:
        """They get no more."""
        gone = set(numbers)
        self._points = [point for point in self._points if point[1] not in gone]

    def shares(self) -> dict[int, float]:
        """Of all names, that each replica has."""
        found: dict[int, float] = {}
        before = self._points[-1][0] - 2**64
        for place, number in self._points:
            found[number] = found.get(number, 0.0) + (place - before) / 2**64
            before = place
        return found

    def order(self, name: str) -> Iterator[int]:
        """The replica of this name, and then those that come after it on the ring."""
        start = bisect.bisect(self._points, (_hash(name), 0))
        seen: set[int] = set()
        for index in range(len(self._points)):
            number = self._points[(start + index) % len(self._points)][1]
            if number not in seen:
                seen.add(number)
                yield number


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


@dataclass
class Outcome:
    """What came of it. `turns` are those that ended, if nobody else took them; `replica_seconds` those in which one was
    there and paid for, loading among them; `counts` how many there were, whenever that was looked at."""

    turns: list[SimulatedTurn] = field(default_factory=list)
    counts: list[tuple[float, int]] = field(default_factory=list)
    refused: int = 0
    replica_seconds: float = 0.0
    replicas_at_end: int = 0
    most_replicas: int = 0
    busy: list[float] = field(default_factory=list)  # of each replica
    end: float = 0.0


class Simulation:
    """Lets conversations come to replicas; `run` once. `take` is given each turn that has ended."""

    def __init__(
        self,
        times: StepTimes,
        scaling: Scaling,
        *,
        seconds: float = float("inf"),
        take: Callable[[SimulatedTurn], None] | None = None,
    ) -> None:
        self._times = times
        self._scaling = scaling
        self._seconds = seconds
        self._replicas: dict[int, SimulatedReplica] = {}
        self._ring = Ring()
        self._numbers = itertools.count()
        self._order = itertools.count()
        self._events: list[tuple[float, int, str, int, int]] = []  # when, order, kind, whose, version
        self._versions: dict[int, int] = {}
        self._begun = itertools.count()
        self._conversations: dict[int, Talk] = {}  # those that have not ended
        self._history: dict[int, int] = {}
        self._turn: dict[int, int] = {}
        self._refused: set[int] = set()  # conversations that will ask again
        self._wanted_since: tuple[int, float] | None = None  # which way the number should go, and since when
        self._outcome = Outcome()
        self._take = take or self._outcome.turns.append
        self._gone_busy: list[float] = []

    def run(self, conversations: Iterable[Talk]) -> Outcome:
        """Until every conversation has ended, or for so many seconds."""
        for _ in range(max(self._scaling.first, self._scaling.least)):
            self._begin(0.0, 0.0)
        self._ring.add(*self._replicas)
        coming = iter(conversations)
        self._take_next(coming)
        if self._scaling.most > self._scaling.least:
            self._push(self._scaling.every, "scale", 0)
        now = 0.0
        while self._events:
            now, _, kind, number, version = heapq.heappop(self._events)
            if now > self._seconds:
                break
            if kind == "comes":
                self._ask(number, now)
                self._take_next(coming)
            elif kind == "asks":
                self._ask(number, now)
            elif kind == "ready":
                if number in self._replicas and not self._replicas[number].is_draining:
                    self._ring.add(number)
            elif kind == "scale":
                self._scale(now)
                if self._events:  # else nobody is left
                    self._push(now + self._scaling.every, "scale", 0)
            elif self._versions.get(number) == version:
                self._advance(number, now)
        return self._ended(now if math.isinf(self._seconds) else self._seconds)

    def _push(self, moment: float, kind: str, number: int, version: int = 0) -> None:
        heapq.heappush(self._events, (moment, next(self._order), kind, number, version))

    def _take_next(self, coming: Iterator[Talk]) -> None:
        if (conversation := next(coming, None)) is not None:
            number = next(self._begun)
            self._conversations[number] = conversation
            self._history[number] = self._turn[number] = 0
            self._push(conversation.starts, "comes", number)

    def _ask(self, number: int, now: float) -> None:
        conversation = self._conversations[number]
        place = self._place(number, conversation)
        if place is None:
            self._outcome.refused += 1
            self._refused.add(number)
            self._push(now + RETRY_SECONDS, "asks", number)  # the client waits and tries again
            return
        self._refused.discard(number)
        new, answer = conversation.turns[self._turn[number]]
        self._advance(place, now)
        turn = SimulatedTurn(number, now, new, self._history[number], answer, number=self._turn[number])
        self._replicas[place].ask(turn)
        self._plan(place)

    def _place(self, number: int, conversation: Talk) -> int | None:
        if conversation.replica is not None:
            return conversation.replica
        tried = itertools.islice(self._ring.order(str(number)), 1 + self._scaling.fallbacks)
        return next((one for one in tried if self._replicas[one].load < self._scaling.most_questions), None)

    def _advance(self, place: int, now: float) -> None:
        for turn in self._replicas[place].advance(now):
            self._take(turn)
            number = turn.conversation
            self._history[number] += turn.new_tokens + turn.answer
            self._turn[number] += 1
            conversation = self._conversations[number]
            if self._turn[number] < len(conversation.turns):
                self._push(now + conversation.think, "asks", number)
            else:
                del self._conversations[number], self._history[number], self._turn[number]
        self._plan(place)

    def _plan(self, place: int) -> None:
        """When to look at this replica again; what was planned before does not count any more."""
        replica = self._replicas[place]
        if replica.is_draining and not replica.load:
            self._outcome.replica_seconds += replica.now - replica.came
            self._gone_busy.append(self._replicas.pop(place).busy)
            self._versions.pop(place, None)
        elif (moment := replica.next_event()) is not None:
            self._versions[place] = self._versions.get(place, 0) + 1
            self._push(moment, "event", place, self._versions[place])

    def _begin(self, now: float, ready: float) -> None:
        number = next(self._numbers)
        self._replicas[number] = SimulatedReplica(self._times, came=now, ready=ready)
        if ready > now:
            self._push(ready, "ready", number)

    def _scale(self, now: float) -> None:
        """One look at how many there should be."""
        scaling = self._scaling
        here = {number: one for number, one in self._replicas.items() if not one.is_draining}
        self._outcome.most_replicas = max(self._outcome.most_replicas, len(here))
        self._outcome.counts.append((now, len(here)))
        load = sum(one.load for one in here.values()) + len(self._refused)
        wanted = min(scaling.most, max(scaling.least, -int(-load // scaling.target)))
        way = (wanted > len(here)) - (wanted < len(here))
        if way == 0:
            self._wanted_since = None
            return
        if self._wanted_since is None or self._wanted_since[0] != way:
            self._wanted_since = (way, now)
        if now - self._wanted_since[1] < (scaling.up_delay if way > 0 else scaling.down_delay):
            return
        self._wanted_since = None
        for _ in range(wanted - len(here)):
            self._begin(now, now + scaling.loading)
        too_many = max(0, math.ceil((len(here) - wanted) * scaling.down_factor))
        leaving = sorted(here, key=lambda one: here[one].load)[:too_many]
        if leaving:
            self._ring.remove(*leaving)
        for number in leaving:
            self._advance(number, now)
            self._replicas[number].is_draining = True
            self._plan(number)

    def _ended(self, now: float) -> Outcome:
        outcome = self._outcome
        outcome.end = now
        outcome.busy = [*self._gone_busy, *(one.busy for one in self._replicas.values())]
        outcome.replica_seconds += sum(now - one.came for one in self._replicas.values())
        outcome.replicas_at_end = len(self._replicas)
        outcome.most_replicas = max(outcome.most_replicas, len(self._replicas))
        return outcome
