"""A conversation as a prompt that fits the model's context: whole oldest turns are left out, never part of one."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from PIL import Image

from models.conversation import Turn
from models.errors import ContextOverflow, RequestError

if TYPE_CHECKING:
    from models.vision_language_model import VisionLanguageModel


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """`parts` are token ids with the images between them. `length_notice` is for an answer that reaches its limit."""

    parts: list[list[int] | Image.Image]
    num_tokens: int
    num_image_tokens: int
    max_new_tokens: int
    dropped_turns: int = 0
    notices: tuple[str, ...] = ()
    length_notice: str | None = None

    @property
    def images(self) -> list[Image.Image]:
        return [part for part in self.parts if isinstance(part, Image.Image)]


def check_turns(model: VisionLanguageModel, turns: Sequence[Turn]) -> None:
    """Raise RequestError for a conversation that this model can't answer."""
    model.prompt_format.render(turns)
    question = turns[-1]
    if not question.text.strip() and not question.images:
        raise RequestError("The question is empty; type one.")
    most = model.info.max_images_per_turn
    if len(question.images) > most:
        raise RequestError(f"{len(question.images)} images in one question; {model.info.name} takes at most {most}.")
    if not model.info.answers_without_image and not any(turn.images for turn in turns):
        raise RequestError(f"{model.info.name} answers questions about an image; add one first.")


def fit_prompt(model: VisionLanguageModel, turns: Sequence[Turn], max_new_tokens: int) -> Prompt:
    """The longest end of the conversation that leaves room for the answer.

    Room is kept for `max_new_tokens`, but never for more than half of the context: a generous limit must not cost the
    history. Raises ContextOverflow when the last question alone does not fit.
    """
    context = model.info.context_tokens
    reserved = min(max_new_tokens, context // 2)
    choices = range(0, len(turns), 2)  # how many turns to leave out

    def tokenize(dropped: int) -> tuple[list[list[int] | Image.Image], int]:
        parts = model.tokenize(model.prompt_format.render(drop_oldest(turns, dropped)[0]))
        return parts, model.count_tokens(parts)

    dropped = 0
    parts, size = tokenize(dropped)
    if size + reserved > context:  # binary search, as every pair of turns that is left out makes the prompt shorter
        index = bisect.bisect_left(choices, True, key=lambda count: tokenize(count)[1] + reserved <= context)
        dropped = choices[min(index, len(choices) - 1)]
        parts, size = tokenize(dropped)
    images = sum(isinstance(part, Image.Image) for part in parts)
    image_tokens = images * model.num_image_tokens
    if size >= context:
        raise ContextOverflow(
            f"The question takes {size} tokens ({image_tokens} of them for images), but the model "
            f"reads at most {context} with its answer. Ask something shorter{' or fewer images' if images > 1 else ''}."
        )
    _, notice = drop_oldest(turns, dropped)
    room = context - size
    length_notice = None
    if room < max_new_tokens:
        length_notice = (
            f"The answer was cut at {room} tokens instead of {max_new_tokens}: with the conversation's {size} it fills "
            f"the model's context of {context}."
        )
    return Prompt(
        parts=parts,
        num_tokens=size,
        num_image_tokens=image_tokens,
        max_new_tokens=min(max_new_tokens, room),
        dropped_turns=dropped,
        notices=(notice,) if notice else (),
        length_notice=length_notice,
    )


def drop_oldest(turns: Sequence[Turn], count: int) -> tuple[list[Turn], str | None]:
    """The turns without the first `count` (an even number), and a sentence that says so.

    If that would take the conversation's last image away, the image moves to the first question that is kept.
    """
    kept = list(turns[count:])
    if not count:
        return kept, None
    notice = f"The conversation is longer than the model's context: its first {count} messages were left out."
    images = [turn.images for turn in turns[:count] if turn.images]
    if images and not any(turn.images for turn in kept):
        kept[0] = replace(kept[0], images=images[-1])
        notice = f"{notice[:-1]}, but not the image."
    return kept, notice
