"""The values of a conversation: a question with what it asks for, its answer, and both as the model is given them.

app/extras, which reads text and draws, imports this module, never the reverse.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property

from PIL import Image

from app.chat.pictures import Picture, drawn_picture
from models.conversation import Answer, Sampling, Turn
from models.grounding import BoxSpan
from models.model_info import ModelInfo


@dataclass(frozen=True, kw_only=True)
class WantedExtras:
    """What a question asks for beside an answer: that the text in its image is read, that a picture is drawn."""

    reads_text: bool = False
    wants_picture: bool = False


def usual_extras(info: ModelInfo) -> WantedExtras:
    """What the questions to a model ask for unless they say otherwise."""
    offered = info.extras
    return WantedExtras() if offered is None else WantedExtras(reads_text=offered.ocr, wants_picture=offered.generate)


@dataclass(frozen=True)
class Question(Turn):
    """A user's turn with the extras it asks for."""

    extras: WantedExtras = WantedExtras()


@dataclass(frozen=True, kw_only=True)
class IllustratedAnswer(Answer):
    """An answer to a question that wanted a picture. `progress` says how far it is, while it is not there."""

    picture: Image.Image | None = field(default=None, compare=False)
    has_picture: bool = False
    progress: str = ""

    @cached_property
    def drawn(self) -> Picture | None:
        """The picture, once it is there, as the page shows it."""
        return None if self.picture is None else drawn_picture(self.picture)


@dataclass(eq=False)
class Branches:
    """What a conversation became after a question was replaced by others: each with all that followed it."""

    tails: list[list[Exchange]]
    current: int = 0  # which of them the conversation goes on with; kept here as it was when it was left


@dataclass(eq=False)
class Pair:
    """Two answers to one question, of different models or settings. The conversation goes on with one of them."""

    left: Exchange
    right: Exchange
    vote: str = ""  # of a visitor: "left", "right", "tie", "both bad" or none


@dataclass(eq=False)
class Exchange:
    """A question with its answer so far. `error` says in one line why there is no more of it."""

    question: str
    pictures: tuple[Picture, ...]
    sampling: Sampling
    answer: Answer | None = None
    error: str = ""
    extras: WantedExtras = field(default_factory=WantedExtras)
    begins_anew: bool = False  # the model does not see what was said before
    rating: str = ""  # of a visitor: "up", "down" or none
    first_seen: int = 0  # the first exchange that the model saw, where that is later than the conversation itself says
    model: str = ""  # the name of the one that answers
    asked: str = ""  # when, as ISO 8601 with its zone
    phrase: str = ""  # what the question asks for: boxes of the answer that have no phrase of their own show it
    branches: Branches | None = None  # shared by the questions that replaced one another here
    pair: Pair | None = None  # shared by the two that were asked side by side

    def receive(self, answer: Answer) -> None:
        """The answer so far, or all of it."""
        self.answer = answer

    @property
    def is_running(self) -> bool:
        return not self.error and (self.answer is None or self.answer.finish_reason is None)

    @property
    def text(self) -> str:
        return self.answer.text if self.answer else ""

    @property
    def answers(self) -> tuple[Exchange, ...]:
        """All answers to the question, from left to right: this one alone, or both of a pair."""
        return (self,) if self.pair is None else (self.pair.left, self.pair.right)

    @property
    def side(self) -> str:
        """Which answer of its pair this is, "left" or "right"; empty without a pair."""
        return "" if self.pair is None else "left" if self.pair.left is self else "right"

    @property
    def spans(self) -> tuple[BoxSpan, ...] | None:
        """As `Answer.spans`."""
        return self.answer.spans if self.answer else None


def now() -> str:
    """The present moment as `Exchange.asked` has it, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
