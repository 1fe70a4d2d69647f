"""Samples -> token rows, with the very prompt rendering and tokenization of inference."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from numpy.random import Generator
from PIL import Image

from models.conversation import Turn
from models.prompt import PromptFormat
from models.vision_language_model import Tokenizer
from training.scenes.questions import TRAINING_MAKERS, vary
from training.scenes.samples import Sample, object_starts, unseen_answers, without_identifier
from training.scenes.scene import Scene, SceneObject
from training.scenes.small_talk import small_talk

_MOST_EARLIER_TURNS = 6
_PLACEHOLDER = Image.new("RGB", (1, 1))  # stands where the scene goes in the rendered prompt


@dataclass(frozen=True)
class Mention:
    """A token at which the decoder should know about objects: at the end of a phrase, or before it is answered."""

    index: int  # in prompt + answer
    items: tuple[SceneObject, ...]
    is_counted: bool  # a phrase, whose number of objects is to be known as well


@dataclass(frozen=True)
class Row:
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

    def row(self, samples: Sequence[Sample], *, has_image: bool = True) -> Row:
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
        return Row(samples[-1].task, prompt, answer, self._unseen(answer, samples[-1]), mentions)

    def _unseen(self, answer: list[int], sample: Sample) -> list[int]:
        """See `Row.unseen`."""
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


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """How often each maker is drawn, and how often a row is a later turn of a conversation.

    `emphasis` is an extra weight in the loss for what is learnt slowly, by task.
    """

    weights: dict[str, float]
    emphasis: dict[str, float] = field(default_factory=dict)
    talk: float = 0.02  # rows of small talk under an image
    chained: float = 0.1
    boxes: bool = True  # False: prompts lose their task identifiers

    def sample(self, rng: Generator, scene: Scene) -> Sample:
        """One question about a scene, phrased in some way."""
        if rng.random() < self.talk:
            return vary(rng, small_talk(rng))
        names = list(self.weights)
        total = sum(self.weights.values())
        while True:
            name = names[int(rng.choice(len(names), p=[weight / total for weight in self.weights.values()]))]
            sample = TRAINING_MAKERS[name](rng, scene)
            if sample is not None:
                varied = vary(rng, sample)
                return varied if self.boxes else without_identifier(varied)

    def rows(self, rng: Generator, scene: Scene, row_format: RowFormat, count: int) -> list[Row]:
        """`count` independent rows about one scene."""
        rows = []
        for _ in range(count):
            samples = [self.sample(rng, scene)]
            if rng.random() < self.chained:
                earlier = min(int(rng.geometric(0.5)), _MOST_EARLIER_TURNS)
                history = [self.sample(rng, scene) for _ in range(earlier)]
                samples = history + samples
            rows.append(row_format.row(samples))
        return rows


MINIGPT_V2_MIXTURE = Mixture(
    weights={
        "refer": 1.4,
        "identify": 0.8,
        "grounding": 0.8,
        "detection": 1.0,
        "absent": 0.3,
        "caption": 0.35,
        "chat_caption": 0.25,
        "count": 1.5,
        "colour": 0.5,
        "shape": 0.7,
        "relation": 2.0,
        "existence": 0.9,
        "reading": 0.7,
        "pattern": 0.35,
        "size": 0.25,
        "position": 0.4,
        "background": 0.25,
    },
    emphasis={"relation": 1.6, "count": 1.4},
)

MINIGPT_V2_LAST_MIXTURE = Mixture(
    weights=MINIGPT_V2_MIXTURE.weights
    | {
        "refer": 1.4,
        "identify": 1.6,
        "grounding": 1.0,
        "detection": 2.2,
        "absent": 0.8,
        "caption": 0.5,
        "count": 2.6,
        "colour": 0.6,
        "shape": 0.4,
        "relation": 0.5,
        "existence": 0.5,
        "reading": 1.2,
        "pattern": 0.2,
        "size": 0.3,
        "position": 0.1,
        "background": 0.1,
    },
    emphasis={"count": 2.0, "reading": 1.5, "absent": 1.5},
)
"""Once relations and positions are known: more of what is learnt last."""

MINIGPT_V2_REFINING_MIXTURE = Mixture(
    weights={
        "refer": 1.6,
        "identify": 1.4,
        "grounding": 1.2,
        "detection": 2.2,
        "absent": 0.8,
        "caption": 0.9,
        "chat_caption": 0.4,
        "count": 2.2,
        "colour": 0.5,
        "shape": 0.4,
        "relation": 0.6,
        "existence": 0.7,
        "reading": 1.0,
        "pattern": 0.25,
        "size": 0.3,
        "position": 0.15,
        "background": 0.1,
    },
    emphasis={"count": 2.0, "reading": 1.5, "absent": 1.5, "identify": 1.3},
)
"""All that is about several objects, and captions."""

MINIGPT_V2_ENTANGLED_MIXTURE = Mixture(
    weights={
        "refer": 1.8,
        "identify": 3.0,
        "grounding": 2.0,
        "detection": 5.0,
        "absent": 0.5,
        "caption": 1.0,
        "chat_caption": 0.24,
        "count": 1.2,
        "colour": 0.3,
        "shape": 0.24,
        "relation": 0.36,
        "existence": 0.42,
        "reading": 0.6,
        "pattern": 0.15,
        "size": 0.18,
        "position": 0.1,
        "background": 0.06,
        "identify_covered": 4.0,
    },
    emphasis=MINIGPT_V2_REFINING_MIXTURE.emphasis
    | {"identify": 1.5, "caption": 1.2, "grounding": 1.3, "detection": 1.4},
)
"""For the end: which of several objects, close to each other or one over another, is meant."""

MINIGPT4_MIXTURE = Mixture(
    weights={
        "caption": 0.5,
        "chat_caption": 1.0,
        "story": 0.1,
        "odd": 0.05,
        "count": 2.0,
        "colour": 0.7,
        "shape": 0.9,
        "relation": 1.5,
        "existence": 0.9,
        "reading": 1.2,
        "pattern": 0.35,
        "size": 0.25,
        "position": 0.4,
        "background": 0.25,
    },
    emphasis={"count": 2.0, "reading": 1.5},
    boxes=False,
)

LLAVA_MIXTURE = replace(
    MINIGPT4_MIXTURE,
    weights=MINIGPT4_MIXTURE.weights | {"caption": 0.7, "chat_caption": 1.8, "relation": 2.2, "background": 0.5},
)
"""For MoE-LLaVA and Mini-Gemini: more captions, which take a decoder longest without boxes to learn from."""
