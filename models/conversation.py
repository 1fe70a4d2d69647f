"""Turns, the settings of an answer, and the answer: the values that flow between the app and a model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from PIL import Image

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

    temperature: float = 1.0
    top_p: float = 0.9
    max_new_tokens: int = 300
    repetition_penalty: float = 1.05
    seed: int | None = None


@dataclass(frozen=True, kw_only=True)
class Answer:
    """An answer so far. `text` is the whole text (not a delta), cleaned of stop strings and of half characters.

    `finish_reason` is None while more is coming. `dropped_turns` counts the oldest turns that were left out of the
    prompt because the conversation is longer than the context. `queue_number`: while there is no text because others
    are answered first, the place in the queue, from 1. `notices` are sentences to show to the user.
    """

    text: str
    finish_reason: FinishReason | None = None
    dropped_turns: int = 0
    queue_number: int = 0
    num_prompt_tokens: int = 0
    num_new_tokens: int = 0
    seconds: float = 0.0
    notices: tuple[str, ...] = field(default=())
