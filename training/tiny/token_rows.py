"""Samples -> token rows, with the very prompt rendering and tokenization of inference."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from numpy.random import Generator
from PIL import Image

from models.conversation import Turn
from models.prompt import PromptFormat
from models.vision_language_model import Tokenizer
from training.scenes.samples import Sample, object_starts, unseen_answers
from training.scenes.scene import Scene, SceneObject
from training.scenes.task_mixtures import TaskMixture

_MOST_EARLIER_TURNS = 6
_PLACEHOLDER = Image.new("RGB", (1, 1))  # stands where the scene goes in the rendered prompt


@dataclass(frozen=True)
class Mention:
    """A token at which the decoder should know about objects: at the end of a phrase, or before it is answered."""

    index: int  # in prompt + answer
    items: tuple[SceneObject, ...]
    is_counted: bool  # a phrase, whose number of objects is to be known as well


@dataclass(frozen=True)
class TokenRow:
    """One question with its answer as ids. `prompt` is what follows the image, or the whole prompt without one."""

    task: str
    prompt: list[int]
    answer: list[int]
    unseen: list[int]  # beside each id of the answer, one that would begin to name what training never shows; or -1
    mentions: list[Mention]


@dataclass(frozen=True, kw_only=True)
class RowFormat:
    """How a family writes conversations: prompt format, tokenizer and what ends an answer."""

    prompt_format: PromptFormat
    tokenizer: Tokenizer
    answer_end: str  # "</s>" or "###", tokenized together with the answer

    def prefix(self) -> list[int]:
        """Ids before the image, equal for all rows."""
        first = self.prompt_format.render([Turn("user", "", (_PLACEHOLDER,))])[0]
        assert isinstance(first, str)
        return self.tokenizer.encode(first, add_bos=True)

    def row(self, samples: Sequence[Sample], *, has_image: bool = True) -> TokenRow:
        """A conversation of which the last answer is to be learnt."""
        turns: list[Turn] = []
        for index, sample in enumerate(samples):
            turns.append(Turn("user", sample.prompt, (_PLACEHOLDER,) if has_image and index == 0 else ()))
            turns.append(Turn("assistant", sample.answer))
        last = self.prompt_format.render(turns[:-1])[-1]
        assert isinstance(last, str)
        prompt = self.tokenizer.encode(last, add_bos=not has_image)
        answer = self.tokenizer.encode(samples[-1].answer + self.answer_end)
        mentions = self._asked(last, samples[-1]) + self._announced(len(prompt), answer, samples[-1])
        return TokenRow(samples[-1].task, prompt, answer, self._unseen(answer, samples[-1]), mentions)

    def draw_rows(self, mixture: TaskMixture, rng: Generator, scene: Scene, count: int) -> list[TokenRow]:
        """`count` independent rows about one scene, some of them later turns of a conversation."""
        rows = []
        for _ in range(count):
            samples = [mixture.sample(rng, scene)]
            if rng.random() < mixture.chained:
                earlier = min(int(rng.geometric(0.5)), _MOST_EARLIER_TURNS)
                history = [mixture.sample(rng, scene) for _ in range(earlier)]
                samples = history + samples
            rows.append(self.row(samples))
        return rows

    def _unseen(self, answer: list[int], sample: Sample) -> list[int]:
        """See `TokenRow.unseen`."""
        unseen = [-1] * len(answer)
        for other in unseen_answers(sample):
            ids = self.tokenizer.encode(other)
            index = _first_difference(ids, answer)
            unseen[index] = ids[index]
        return unseen

    def _asked(self, text: str, sample: Sample) -> list[Mention]:
        """Where phrases of the last question end: no piece crosses the end of a word, so prefixes can be counted."""
        start = text.rindex(sample.prompt)
        ends = []
        for phrase, items in sample.mentions:
            match = re.compile(rf"(?<!\w){re.escape(phrase)}(?!\w)").search(text, start)
            assert match is not None, (phrase, text)
            index = len(self.tokenizer.encode(text[: match.end()])) - 1
            ends.append(Mention(index, items, is_counted=sample.task != "identify"))
        return ends

    def _announced(self, prompt_length: int, answer: list[int], sample: Sample) -> list[Mention]:
        """The tokens before every object of an answer: there it must be known which one comes next."""
        found = []
        for start, item in object_starts(sample):
            before = self.tokenizer.encode(sample.answer[:start].rstrip(" "))
            # Fewer ids are shared than `before` has where a piece reaches over the start.
            shared = _first_difference(before, answer)
            found.append(Mention(prompt_length + shared - 1, (item,), is_counted=False))
        return found


def _first_difference(a: Sequence[int], b: Sequence[int]) -> int:
    """The first index at which the ids are not the same; where one is the beginning of the other, its length."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
