"""Which tasks are asked about scenes, how often, and with what weight in the loss."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from numpy.random import Generator

from training.scenes.question_makers import TRAINING_MAKERS, vary
from training.scenes.samples import Sample, without_identifier
from training.scenes.scene import Scene
from training.scenes.small_talk import small_talk


@dataclass(frozen=True, kw_only=True)
class TaskMixture:
    """How often each task is drawn, and how often a question is a later turn of a conversation.

    `weights` are relative, by the name of a maker of questions. `emphasis` is an extra weight in the loss for what is
    learnt slowly, by task.
    """

    weights: dict[str, float]
    emphasis: dict[str, float] = field(default_factory=dict)
    talk: float = 0.02  # share of small talk under an image
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


MINIGPT_V2_MIXTURE = TaskMixture(
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

MINIGPT_V2_LAST_MIXTURE = TaskMixture(
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

MINIGPT_V2_REFINING_MIXTURE = TaskMixture(
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

MINIGPT_V2_ENTANGLED_MIXTURE = TaskMixture(
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

MINIGPT4_MIXTURE = TaskMixture(
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
