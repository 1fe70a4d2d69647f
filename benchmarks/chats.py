"""Several chats at once, and one alone: tokens per second and time to the first token.

Every chat has an image, which both sides have encoded before the clock starts, and a question of its own length.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import mean

import torch

from benchmarks.measure import Clock, Figure, SpeedReport, take_turns
from benchmarks.originals import OriginalChat
from benchmarks.random_models import ModelSize, picture, question, random_model
from engine.chat_engine import ChatEngine
from models.conversation import Answer, Sampling, Turn
from models.vision_language_model import VisionLanguageModel

KV_BYTES = 1536 * 2**20


@dataclass(frozen=True, kw_only=True)
class ChatsWork:
    """How much is asked: chats at once, new tokens, the questions' least length, what is added from chat to chat.

    `repeats` of all chats, `alone` of one with `alone_tokens` new ones, as a single answer varies more than eight.
    """

    chats: int = 8
    new_tokens: int = 32
    shortest: int = 8
    step: int = 12
    repeats: int = 3
    alone: int = 3
    alone_tokens: int = 64


SMALL = ChatsWork(chats=3, new_tokens=6, repeats=1, alone=1, alone_tokens=12)


AskTurn = Callable[[int, int, Turn], Turn]  # repetition, number of the chat, a turn with its image -> the question


def greedy(new_tokens: int) -> Sampling:
    """The settings of every comparison."""
    return Sampling(temperature=0, repetition_penalty=1, max_new_tokens=new_tokens)


@dataclass
class Read:
    """One answer read to its end, and the times of its first and last text."""

    answer: Answer | None = None
    first: float = 0.0
    last: float = 0.0
    error: BaseException | None = None

    def read(self, engine: ChatEngine, turns: Sequence[Turn], new_tokens: int, clock: Clock) -> None:
        """Ask, and wait for the end."""
        try:
            for answer in engine.stream(turns, greedy(new_tokens)):
                if not self.first and answer.num_new_tokens:
                    self.first = clock()
                self.answer = answer
            self.last = clock()
        except BaseException as error:
            self.error = error


def ask_together(engine: ChatEngine, asked: Sequence[Sequence[Turn]], new_tokens: int, clock: Clock) -> list[Read]:
    """All conversations at the same time, each read by a thread of its own."""
    reads = [Read() for _ in asked]
    threads = [
        threading.Thread(target=read.read, args=(engine, turns, new_tokens, clock))
        for read, turns in zip(reads, asked, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for read in reads:
        if read.error is not None:
            raise read.error
    return reads


@dataclass(kw_only=True)
class _Sides:
    """Both ways on one model; each method answers the questions of one repetition and returns its figures."""

    engine: ChatEngine
    original: OriginalChat
    clock: Clock
    work: ChatsWork
    conversations: Callable[[int], list[list[Turn]]]
    our_answers: list[str] = field(default_factory=list)
    original_answers: list[str] = field(default_factory=list)

    def ours(self, repetition: int) -> dict[str, float]:
        """All chats at once."""
        return self._ours(self.conversations(repetition), self.work.new_tokens)

    def theirs(self, repetition: int) -> dict[str, float]:
        """One `generate` after the other."""
        return self._theirs(self.conversations(repetition), self.work.new_tokens)

    def ours_alone(self, repetition: int) -> dict[str, float]:
        """One chat."""
        return self._ours(self.conversations(100 + repetition)[:1], self.work.alone_tokens)

    def theirs_alone(self, repetition: int) -> dict[str, float]:
        """One `generate`."""
        return self._theirs(self.conversations(100 + repetition)[:1], self.work.alone_tokens)

    def _ours(self, asked: Sequence[Sequence[Turn]], new_tokens: int) -> dict[str, float]:
        start = self.clock()
        reads = ask_together(self.engine, asked, new_tokens, self.clock)
        seconds = self.clock() - start
        found = [read.answer for read in reads if read.answer is not None]
        self.our_answers += [answer.text for answer in found]
        total = sum(answer.num_new_tokens for answer in found)
        return {"speed": total / seconds, "first": mean(read.first - start for read in reads)}

    def _theirs(self, asked: Sequence[Sequence[Turn]], new_tokens: int) -> dict[str, float]:
        start = self.clock()
        found = [self.original.answer(turns, new_tokens) for turns in asked]
        seconds = self.clock() - start
        self.original_answers += [answer.text for answer in found]
        total = sum(answer.num_tokens for answer in found)
        return {"speed": total / seconds, "first": mean(answer.first_token - start for answer in found)}


def compare(
    model: VisionLanguageModel,
    work: ChatsWork,
    clock: Clock,
    report: SpeedReport,
    *,
    setting: str,
    goals: Mapping[str, float],
    images: Sequence[Turn],
    ask: AskTurn,
) -> None:
    """Chats together against one `generate` after the other; then one chat alone. `images` has a turn per chat."""
    original = OriginalChat(model, clock, keeps_images=True)
    original.encode([image for turn in images for image in turn.images])
    with ChatEngine(model, max_concurrent=work.chats, kv_bytes=KV_BYTES) as engine:
        sides = _Sides(
            engine=engine,
            original=original,
            clock=clock,
            work=work,
            conversations=lambda repetition: [[ask(repetition, n, turn)] for n, turn in enumerate(images)],
        )
        ask_together(engine, [[turn] for turn in map(_ask_about, images)], 2, clock)  # encodes the images
        together = take_turns({"original": sides.theirs, "ours": sides.ours}, repeats=work.repeats)
        alone = take_turns({"original": sides.theirs_alone, "ours": sides.ours_alone}, repeats=work.alone)
    if model.language_model.dtype == torch.float32:
        report.check_equal(setting, sides.our_answers, sides.original_answers)
    for name, unit, found, key, goal in (
        (f"{work.chats} chats, all tokens", "tokens/s", together, "speed", "chats"),
        (f"{work.chats} chats, mean time to first token", "s", together, "first", "first_token"),
        ("1 chat", "tokens/s", alone, "speed", "one"),
    ):
        is_speed = unit == "tokens/s"
        report.add(
            Figure(
                name=name,
                setting=setting,
                unit=unit,
                ours=found.median("ours", key),
                original=found.median("original", key),
                ratio=found.ratio(key, *(("ours", "original") if is_speed else ("original", "ours"))),
                goal=goals.get(goal),
            )
        )


def run(
    backbone: str,
    size: ModelSize,
    work: ChatsWork,
    dtype: torch.dtype,
    clock: Clock,
    report: SpeedReport,
    goals: Mapping[str, float],
) -> None:
    """`compare` for a model with random weights of one backbone.

    Its vision tower has two layers only: images are encoded before the clock starts.
    """
    size = replace(size, vision_layers=2)
    model = random_model(backbone, size, dtype=dtype, device=clock.device, context_tokens=512)
    compare(
        model,
        work,
        clock,
        report,
        setting=f"{model.info.name}, {model.info.dtype}",
        goals=goals,
        images=[Turn("user", "", (picture(number),)) for number in range(work.chats)],
        # Other questions at each repetition: no part of them is in any cache.
        ask=lambda repetition, number, turn: question(
            work.shortest + work.step * number, 1000 * repetition + number, *turn.images
        ),
    )
    del model
    gc.collect()


def _ask_about(turn: Turn) -> Turn:
    return Turn("user", "x", turn.images)
