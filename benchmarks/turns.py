"""A later turn of one chat: time to the first token, against reading the whole conversation again.

Turn 5 has 1500 tokens before its answer. Of these 40 are new to the engine in the usual chat, whose answers it wrote
itself (question and marks), and 300 where an answer of 260 tokens comes from elsewhere. Turn 2 is about an image of 576
tokens, which the original encodes again.
"""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from benchmarks.chats import KV_BYTES, ask_together
from benchmarks.measure import Clock, Figure, SpeedReport, take_turns
from benchmarks.originals import OriginalChat
from benchmarks.random_models import FORMAT, ModelSize, picture, question, random_model, words
from engine.chat_engine import ChatEngine
from models.conversation import Turn
from models.prompt import IMAGE_SLOT
from models.vision_language_model import VisionLanguageModel

_NEW_TOKENS = 3  # of each measured answer: the first is timed, all are compared


@dataclass(frozen=True, kw_only=True)
class TurnsWork:
    """Tokens before turn 5's answer, the two counts of new ones, and tokens before turn 2's, with how many new."""

    turn5: int = 1500
    few: int = 40
    many: int = 300
    turn2_text: int = 100
    turn2_new: int = 32
    repeats: int = 3


SMALL = TurnsWork(turn5=320, few=30, many=60, turn2_text=96, turn2_new=30, repeats=1)


def history(num_turns: int, num_tokens: int, image_tokens: int, seed: int) -> list[Turn]:
    """Questions and answers that together take about so many tokens; the first question has an image."""
    around_image = len(FORMAT.image.replace(IMAGE_SLOT, "") + FORMAT.image_separator)
    start = 1 + len(FORMAT.system) + around_image + image_tokens  # BOS first
    per_turn = (num_tokens - start) // num_turns - marks()
    turns: list[Turn] = []
    for n in range(num_turns):
        images = (picture(seed),) if n == 0 else ()
        turns.append(question(per_turn // 2, seed + 2 * n, *images))
        turns.append(Turn("assistant", words(per_turn - per_turn // 2, seed + 2 * n + 1)))
    return turns


def marks() -> int:
    """Tokens of a turn besides its question and answer."""
    return len(FORMAT.user_prefix + FORMAT.assistant_prefix + FORMAT.assistant_suffix)


def compare(
    model: VisionLanguageModel,
    original: OriginalChat,
    turns: Sequence[Turn],
    num_new: int,
    *,
    repeats: int,
    clock: Clock,
    report: SpeedReport,
    name: str,
    goal: float | None,
) -> None:
    """Time to the first token of a question with `num_new` tokens, marks included, after a conversation."""
    answers: dict[str, list[str]] = {"ours": [], "original": []}

    def asked(repetition: int) -> list[Turn]:
        return [*turns, question(max(1, num_new - marks()), 5000 + repetition)]

    with ChatEngine(model, max_concurrent=1, kv_bytes=KV_BYTES) as engine:
        # Everything before the question is known from now on. (Of an answer of one token, the library forgets pages.)
        ask_together(engine, [[*turns, Turn("user", "x")]], _NEW_TOKENS, clock)

        def ours(repetition: int) -> dict[str, float]:
            start = clock()
            read = ask_together(engine, [asked(repetition)], _NEW_TOKENS, clock)[0]
            assert read.answer is not None
            answers["ours"].append(read.answer.text)
            return {"first": read.first - start}

        def theirs(repetition: int) -> dict[str, float]:
            start = clock()
            answer = original.answer(asked(repetition), _NEW_TOKENS)
            answers["original"].append(answer.text)
            return {"first": answer.first_token - start}

        found = take_turns({"original": theirs, "ours": ours}, repeats=repeats)
    setting = f"{model.info.name}, {model.info.dtype}"
    if model.language_model.dtype == torch.float32:
        report.check_equal(f"{name}, {setting}", answers["ours"], answers["original"])
    mine, other = found.median("ours", "first"), found.median("original", "first")
    ratio = found.ratio("first", "original", "ours")
    report.add(Figure(name=name, setting=setting, unit="s", ours=mine, original=other, ratio=ratio, goal=goal))


def run(
    backbone: str,
    size: ModelSize,
    work: TurnsWork,
    dtype: torch.dtype,
    clock: Clock,
    report: SpeedReport,
    goals: Mapping[str, float],
) -> None:
    """The three comparisons on random models of one backbone."""
    model = random_model(backbone, size, dtype=dtype, device=clock.device)
    original = OriginalChat(model, clock, keeps_images=True)
    for num_new, goal in ((work.few, "turn5_few"), (work.many, "turn5_many")):
        turns = history(4, work.turn5 - num_new, model.num_image_tokens, seed=7)
        original.encode([image for turn in turns for image in turn.images])
        compare(
            model,
            original,
            turns,
            num_new,
            repeats=work.repeats,
            clock=clock,
            report=report,
            name=f"turn 5, {num_new} of {work.turn5} tokens new, time to first token",
            goal=goals.get(goal),
        )
    del model, original  # the copy of the weights, too
    gc.collect()
    model = random_model(backbone, replace(size, image=336 if size.image > 100 else size.image, merge=1), dtype=dtype)
    compare(
        model,
        OriginalChat(model, clock, keeps_images=False),
        history(1, model.num_image_tokens + work.turn2_text - work.turn2_new, model.num_image_tokens, seed=9),
        work.turn2_new,
        repeats=work.repeats,
        clock=clock,
        report=report,
        name=f"turn 2 about an image of {model.num_image_tokens} tokens, time to first token",
        goal=goals.get("turn2"),
    )
    del model
    gc.collect()
