"""Turns, the settings of an answer, and the answer: the values that flow between the app and a model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from PIL import Image

from models.grounding import BoxSpan
from models.sampling_settings import setting

Role = Literal["user", "assistant"]
FinishReason = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True)
class Turn:
    """One utterance. `images` belong to user turns only and come before the text."""

    role: Role
    text: str
    images: tuple[Image.Image, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How an answer is drawn. Field names as in transformers' `GenerationConfig`.

    `temperature` 0 is greedy decoding; `repetition_penalty` counts generated tokens only, never the prompt (as the
    original chats do); the same `seed` and conversation give the same answer, whoever else is being served.
    """

    temperature: float = setting(
        1.0,
        low=0,
        high=100,
        zero_below=1e-6,  # fp32 can't tell it from greedy
        is_for_draws=True,
        slider=(0, 2, 0.05),
        label="Temperature",
        help="0 always takes the likeliest.",
        detail="temperature {:g}",
    )
    top_p: float = setting(
        0.9,
        low=0,
        high=1,
        above_low=True,
        is_for_draws=True,
        slider=(0.05, 1, 0.05),
        label="Top-p",
        help="Draw from this share of likely tokens.",
        detail="top-p {:g}",
    )
    max_new_tokens: int = setting(
        300,
        low=1,
        high=2**31 - 1,
        is_whole=True,
        in_tokens=True,
        slider=(1, 1024, 1),
        label="Max new tokens",
        help="Longest answer.",
        detail="at most {} tokens",
    )
    repetition_penalty: float = setting(
        1.05,
        low=0,
        high=100,
        above_low=True,
        neutral=1,
        slider=(1, 2, 0.05),
        label="Repetition penalty",
        help="1 is none.",
        detail="repetition penalty {:g}",
    )
    seed: int | None = setting(
        None,
        low=-(2**63),
        high=2**63 - 1,
        is_whole=True,
        is_for_draws=True,
        when_empty="a new one",
        label="Seed",
        help="The same seed gives the same answer.",
        detail="seed {}",
    )


@dataclass(frozen=True, kw_only=True)
class Answer:
    """An answer so far. `text` is the whole text (not a delta), cleaned of stop strings and of half characters.

    `finish_reason` is None while more is coming. `dropped_turns` counts the oldest turns that were left out of the
    prompt because the conversation is longer than the context. `queue_number`: while there is no text because others
    are answered first, the place in the queue, from 1. Of the prompt's tokens, `num_image_tokens` stand for images and
    `num_cached_tokens` were found in memory from earlier prompts. `notices` are sentences to show to the user.
    `spans`: where the text names boxes, in its order, if it does not write them as `models.grounding` reads them.
    """

    text: str
    finish_reason: FinishReason | None = None
    dropped_turns: int = 0
    queue_number: int = 0
    num_prompt_tokens: int = 0
    num_image_tokens: int = 0
    num_cached_tokens: int = field(default=0, compare=False)  # depends on what others asked before
    num_new_tokens: int = 0
    seconds: float = 0.0
    notices: tuple[str, ...] = field(default=())
    spans: tuple[BoxSpan, ...] | None = None
