"""What the peers are asked, in turns, and what comes of it."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.peers.asking import RunningPeer
from benchmarks.peers.environments import OURS, PEERS, PeerKind, PeerMissing
from benchmarks.peers.peer_process import Ids
from benchmarks.random_models import BOS, FIRST_LETTER

_ANSWERS = 4  # that are compared
DECODE, CHATS, PREFILL, TURN5 = "decode, 1 chat", "8 chats", "prefill", "turn 5, first token"


@dataclass(frozen=True, kw_only=True)
class Work:
    """Tokens of a short prompt and what is decoded after it; of a long prompt; of turn 5 and of what is new there."""

    short: int = 32
    new: int = 24
    chats: int = 8
    chat_prompt: int = 16
    chat_new: int = 24
    prefill: int = 512
    turn5: int = 1500
    turn5_new: int = 40
    repeats: int = 3
    with_turn5: bool = True


SMALL = Work(short=8, new=4, chats=2, chat_prompt=6, chat_new=4, prefill=24, turn5=40, turn5_new=8, repeats=1)


@dataclass
class Cell:
    """A measure in one precision: by peer, the figure of each repetition, and whether more is better."""

    precision: str
    measure: str
    unit: str
    figures: dict[str, list[float]] = field(default_factory=dict)

    def median(self, peer: str) -> float:
        """Over the repetitions."""
        return statistics.median(self.figures[peer])

    def ratio(self, peer: str) -> float:
        """How many times better ours is: the median of the repetitions' ratios."""
        pairs = zip(self.figures[OURS.name], self.figures[peer], strict=True)
        return statistics.median(ours / other if self.unit == "tokens/s" else other / ours for ours, other in pairs)

    def worst(self) -> tuple[str, float] | None:
        """The peer that is best beside ours, and ours against it; None where nobody else has this precision."""
        others = [(self.ratio(peer), peer) for peer in self.figures if peer != OURS.name]
        return (min(others)[1], min(others)[0]) if others else None


@dataclass
class Found:
    """All cells; by peer, the share of fp32 answers that are ours, and CPU seconds of loading; who was left out."""

    cells: list[Cell] = field(default_factory=list)
    equal: dict[str, float] = field(default_factory=dict)
    load: dict[str, dict[str, float]] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)


def prompt(length: int, vocabulary: int, seed: int) -> Ids:
    """BOS and random ids."""
    numbers = random.Random(seed)
    return [BOS, *(numbers.randrange(FIRST_LETTER, vocabulary) for _ in range(length - 1))]


def compare(
    weights: Path, folder: Path, precision: str, work: Work, vocabulary: int, found: Found,
    peers: Sequence[PeerKind] = PEERS,
) -> None:  # fmt: skip
    """Start everybody who has the precision, and ask each of them in turn."""
    with ExitStack() as stack:
        asked: list[RunningPeer] = []
        for peer in (OURS, *peers):
            if precision in peer.precisions:
                try:
                    asked.append(stack.enter_context(RunningPeer(peer, precision, weights, folder)))
                except PeerMissing as error:
                    if peer is OURS:
                        raise
                    found.missing.append(f"{precision}: {error}")
                    print(f"  {error}", flush=True)
        found.load[precision] = {peer.name: peer.load for peer in asked}
        measures: dict[str, Callable[[RunningPeer, int], float]] = {
            DECODE: lambda peer, n: _decode(peer, work, vocabulary, 100 + 2 * n),
            CHATS: lambda peer, n: _chats(peer, work, vocabulary, 200 + 50 * n),
            PREFILL: lambda peer, n: work.prefill / peer.ask([prompt(work.prefill, vocabulary, 300 + n)], 1)[0],
        }
        if precision == "fp32":
            _check(asked, work, vocabulary, found)
        if work.with_turn5:
            measures[TURN5] = _turn5(asked, work, vocabulary)
        _measure(asked, measures, precision, work.repeats, found)


def _measure(
    asked: Sequence[RunningPeer],
    measures: Mapping[str, Callable[[RunningPeer, int], float]],
    precision: str,
    repeats: int,
    found: Found,
) -> None:
    for peer in asked:
        peer.ask([[BOS, 5, 6, 7]], 2)  # what is prepared at the first answer is not timed
    for measure, run in measures.items():
        cell = Cell(precision, measure, "s" if measure == TURN5 else "tokens/s")
        for repetition in range(repeats):
            for peer in asked:
                cell.figures.setdefault(peer.name, []).append(run(peer, repetition))
        found.cells.append(cell)
        shown = ", ".join(f"{name} {cell.median(name):.4g}" for name in cell.figures)
        print(f"  {precision}, {measure}, {cell.unit}: {shown}", flush=True)


def _check(asked: Sequence[RunningPeer], work: Work, vocabulary: int, found: Found) -> None:
    """How many of every peer's greedy answers are ours, as far as ours goes."""
    for seed in range(_ANSWERS):
        ids = prompt(work.short, vocabulary, seed)
        ours, *others = ((peer.name, peer.ask([ids], work.new)[1][0]) for peer in asked)
        for name, answer in others:
            is_equal = answer[: len(ours[1])] == ours[1]
            found.equal[name] = found.equal.get(name, 0.0) + is_equal / _ANSWERS
    print(f"  greedy ids equal to ours: {found.equal}", flush=True)


def _decode(peer: RunningPeer, work: Work, vocabulary: int, seed: int) -> float:
    """Tokens per second after the first: what more of them take than one alone, after another prompt as long."""
    first, _ = peer.ask([prompt(work.short, vocabulary, seed)], 1)
    seconds, (answer,) = peer.ask([prompt(work.short, vocabulary, seed + 1)], 1 + work.new)
    return (len(answer) - 1) / (seconds - first)


def _chats(peer: RunningPeer, work: Work, vocabulary: int, seed: int) -> float:
    """Tokens per second of all answers, their prompts included."""
    prompts = [prompt(work.chat_prompt, vocabulary, seed + n) for n in range(work.chats)]
    seconds, answers = peer.ask(prompts, work.chat_new)
    return sum(map(len, answers)) / seconds


def _turn5(asked: Sequence[RunningPeer], work: Work, vocabulary: int) -> Callable[[RunningPeer, int], float]:
    """Seconds to the first token of a question after a conversation that was read before."""
    before = prompt(work.turn5 - work.turn5_new, vocabulary, 400)
    for peer in asked:
        peer.ask([before], 2)

    def run(peer: RunningPeer, repetition: int) -> float:
        return peer.ask([before + prompt(work.turn5_new + 1, vocabulary, 500 + repetition)[1:]], 1)[0]

    return run
