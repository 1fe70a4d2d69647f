"""One replica of the model: how fast its answers come while others are answered, and what it remembers.

A step of the engine gives every running answer a token and reads a piece of the prompts that wait. Before that a turn
is prepared: its request is taken in, its picture goes through the tower. Those that are prepared share the processor
with each other and with the engine. Between two events (somebody comes, is prepared, a prompt is read, an answer ends)
all steps are alike, so none of them is simulated by itself: all go on at constant speeds, and the next event is known.
"""

from __future__ import annotations

import heapq
import itertools
from collections import OrderedDict, deque
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class StepTimes:
    """Seconds of a step: `step`, `answer` more for each answer in it, `prompt_token` for each token that it reads.

    `first_turn` and `later_turn` are seconds for which a turn is prepared: its request, a new picture. Of prompts a
    step reads `piece` tokens. `together`: turns are prepared side by side, else one after the other, between the steps.
    `places`: answers at once; `kept_tokens`: of conversations, whose keys and values stay.
    """

    step: float
    answer: float
    prompt_token: float
    first_turn: float
    later_turn: float
    piece: int = 512
    places: int = 8
    together: bool = True
    kept_tokens: int = 100_000

    def seconds(self, answers: float, prompt_tokens: float = 0) -> float:
        """Of a step with so many answers and so many tokens of prompts."""
        return self.step + self.answer * answers + self.prompt_token * prompt_tokens


@dataclass(eq=False, slots=True)
class SimulatedTurn:
    """A question of a conversation at the moment `asked`; `history` tokens were said before it, of `answer` it gets."""

    conversation: int
    asked: float
    new_tokens: int
    history: int
    answer: int
    number: int = 0  # in its conversation, from 0
    found: bool = False  # what was said before, in the replica's memory
    first_token: float = 0.0
    ended: float = 0.0


@dataclass
class PromptLeft:
    """A turn whose prompt is read: `left` tokens of it, `piece` of them in a step."""

    turn: SimulatedTurn
    left: float
    piece: float


@dataclass(eq=False)
class SimulatedReplica:
    """`advance` to a moment before anything is asked of it. `busy` counts the seconds in which it worked."""

    times: StepTimes
    came: float = 0.0  # since when it is paid for
    ready: float = 0.0  # when its model is loaded
    busy: float = 0.0
    now: float = 0.0
    preparing: list[tuple[float, int, PromptLeft]] = field(default_factory=list)  # at which `_prepared` each is ready
    reading: deque[PromptLeft] = field(default_factory=deque)
    waiting: deque[SimulatedTurn] = field(default_factory=deque)
    is_draining: bool = False
    _prepared: float = 0.0  # seconds that each turn would have had for that since the beginning
    _given: float = 0.0  # tokens that each answer would have had since the beginning
    _ends: list[tuple[float, int, SimulatedTurn]] = field(default_factory=list)  # at which `_given` an answer is whole
    _kept: OrderedDict[int, int] = field(default_factory=OrderedDict)  # conversations, the longest unused first
    _kept_tokens: int = 0
    _count: itertools.count[int] = field(default_factory=itertools.count)

    def __post_init__(self) -> None:
        self.now = self.ready

    @property
    def running(self) -> int:
        """Answers that have a place: they are prepared, their prompts are read, or they are written."""
        return len(self._ends) + len(self.reading) + len(self.preparing)

    @property
    def load(self) -> int:
        """Questions that are here."""
        return self.running + len(self.waiting)

    def ask(self, turn: SimulatedTurn) -> None:
        """Take a question, at the present moment."""
        self.waiting.append(turn)
        self._admit()

    def next_event(self) -> float | None:
        """When the running step ends, if no question arrives until then; None while nothing runs."""
        return None if not self.running else self.now + self._until_event()

    def advance(self, moment: float) -> list[SimulatedTurn]:
        """Go on to this moment, no later than the next event; the answers that ended at it."""
        seconds = moment - self.now
        if self.running and seconds > 0:
            self.busy += seconds
            share = self._share()
            self._prepared += share * seconds if self.preparing else 0.0
            rate = share * self._rate()
            self._given += rate * seconds if self._ends else 0.0
            if self.reading:
                self.reading[0].left -= rate * self.reading[0].piece * seconds
        self.now = max(self.now, moment)
        ended = []
        while self._ends and self._ends[0][0] <= self._given + 1e-6:
            turn = heapq.heappop(self._ends)[2]
            turn.ended = self.now
            self._remember(turn)
            ended.append(turn)
        if self.reading and self.reading[0].left <= 1e-6:
            turn = self.reading.popleft().turn
            turn.first_token = self.now  # read with the last piece
            heapq.heappush(self._ends, (self._given + max(turn.answer - 1, 1e-3), next(self._count), turn))
        while self.preparing and self.preparing[0][0] <= self._prepared + 1e-9:
            self.reading.append(heapq.heappop(self.preparing)[2])
        self._admit()
        return ended

    def _admit(self) -> None:
        while self.waiting and self.running < self.times.places:
            turn = self.waiting.popleft()
            turn.found = turn.conversation in self._kept
            tokens = turn.new_tokens + (0 if turn.found else turn.history)
            seconds = self.times.later_turn if turn.found else self.times.first_turn
            if self.times.together:
                left = max(tokens, 1.0)
                prompt = PromptLeft(turn, left, min(left, self.times.piece))
                heapq.heappush(self.preparing, (self._prepared + seconds, next(self._count), prompt))
            else:  # as so many tokens more
                left = max(tokens + seconds / self.times.prompt_token, 1.0)
                self.reading.append(PromptLeft(turn, left, min(left, self.times.piece)))

    def _share(self) -> float:
        """Of the processor, that the engine has, and each turn that is prepared."""
        return 1 / (len(self.preparing) + bool(self._ends or self.reading))

    def _rate(self) -> float:
        """Steps in a second of the engine's time."""
        return 1 / self.times.seconds(len(self._ends), self.reading[0].piece if self.reading else 0)

    def _until_event(self) -> float:
        share = self._share()
        rate = share * self._rate()
        ready = (self.preparing[0][0] - self._prepared) / share if self.preparing else float("inf")
        first = (self._ends[0][0] - self._given) / rate if self._ends else float("inf")
        read = self.reading[0].left / (rate * self.reading[0].piece) if self.reading else float("inf")
        return max(0.0, min(ready, first, read))

    def _remember(self, turn: SimulatedTurn) -> None:
        tokens = turn.history + turn.new_tokens + turn.answer
        self._kept_tokens += tokens - self._kept.pop(turn.conversation, 0)
        self._kept[turn.conversation] = tokens
        while self._kept_tokens > self.times.kept_tokens and len(self._kept) > 1:
            self._kept_tokens -= self._kept.popitem(last=False)[1]
