"""Conversations: LLaVA's three files, multi-task ones, unnatural instructions, and the LLaVA line's own format."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from random import Random

from PIL import Image

from models.conversation import Turn
from models.errors import RequestError
from training.data.annotations import Annotation, DataError
from training.data.llava_sequences import read_turns
from training.data.readers import (
    AllItemsReader,
    TrainingExample,
    is_there,
    make_example,
    open_image,
    picture_named,
)
from training.data.text import process_caption

_COCO_NUMBER = re.compile(r"\d{12}")
_BLANK = Image.new("RGB", (1, 1))  # stands for a picture where only fields are checked


class _Conversations(AllItemsReader):
    """{id, image (optional), conversations: [{value}, …]} by turns from the human and the model, about one picture.

    `image` is the picture's file. Without it `id` is the picture's name without suffix or, with twelve digits as in the
    public files, the number of a COCO training picture.
    """

    def image_path(self, index: int) -> Path:
        item = self.items[index]
        if item.has("image"):
            return self.paths.images / item.text("image")
        name = item.identifier("id")
        if _COCO_NUMBER.fullmatch(name):
            return self.paths.images / f"COCO_train2014_{name}.jpg"
        return picture_named(self.paths.images, name)

    def values(self, index: int) -> list[str]:
        """The turns' texts, a question first; as many answers as questions."""
        item = self.items[index]
        values = [turn.text("value") for turn in item.items("conversations")]
        if len(values) % 2:
            raise DataError(f"{item.where()}: field 'conversations' has {len(values)} turns; the last has no answer.")
        first = values[0].replace("<image>", "").replace("\n", "").strip()
        return [first, *values[1:]]

    def check(self, index: int) -> None:
        self.image_path(index)
        self.values(index)


class ConversationReader(_Conversations):
    """`conversation_58k.json` and the multi-task conversations: all turns as they stand.

    Source: MiniGPT-4, `LlavaConversationDataset`, `MultiTaskConversationDataset`.
    """

    def example(self, index: int, rng: Random) -> TrainingExample:  # noqa: ARG002
        values = self.values(index)
        return make_example(tuple(values[::2]), tuple(values[1::2]), (open_image(self.image_path(index)),))


class FirstTurnReader(_Conversations):
    """`detail_23k.json` and `complex_reasoning_77k.json`: the first question, processed, and its answer as it stands.

    Source: MiniGPT-4, `LlavaDetailDataset`, `LlavaReasonDataset`.
    """

    def example(self, index: int, rng: Random) -> TrainingExample:  # noqa: ARG002
        question, answer, *_ = self.values(index)
        return make_example((process_caption(question),), (answer,), (open_image(self.image_path(index)),))


class UnnaturalInstructions(AllItemsReader):
    """Unnatural Instructions: text alone. Source: MiniGPT-4, `UnnaturalDataset`."""

    def image_path(self, index: int) -> None:
        """There is none."""

    def check(self, index: int) -> None:
        self._texts(index)

    def _texts(self, index: int) -> tuple[str, str]:
        instance = self.items[index].items("instances")[0]
        constraints = instance.optional_text("constraints")
        instruction = instance.text("instruction_with_input") + (f" {constraints}" if constraints is not None else "")
        return process_caption(instruction), process_caption(instance.text("output"))

    def example(self, index: int, rng: Random) -> TrainingExample:  # noqa: ARG002
        question, answer = self._texts(index)
        return make_example((question,), (answer,))


class LlavaReader(AllItemsReader):
    """The LLaVA line's format, for Mini-Gemini (pretraining, instruction, generation) and MoE-LLaVA alike.

    {"id", "image": path or list of paths (optional), "conversations": [{"from": "human" | "gpt", "value"}, …]}.
    """

    def _names(self, item: Annotation) -> list[str]:
        if not item.has("image"):
            return []
        return [item.text("image")] if isinstance(item.values["image"], str) else item.texts("image")

    def has_image(self, index: int) -> bool:
        return bool(self._names(self.items[index]))

    def num_words(self, index: int) -> int:
        return sum(len(turn.text("value").split()) for turn in self.items[index].items("conversations"))

    def image_path(self, index: int) -> Path | None:
        return next(iter(self.image_paths(index)), None)

    def image_paths(self, index: int) -> list[Path]:
        return [self._existing(name) for name in self._names(self.items[index])]

    def check(self, index: int) -> None:
        self._example(self.items[index], lambda _: _BLANK)

    def _existing(self, name: str) -> Path:
        """The picture's file. As in the original, OCR-VQA's may be .png where the annotation says .jpg, and Visual
        Genome's may lie in `images/` where it says `VG_100K/`."""
        path = self.paths.images / name
        others = (path.with_suffix(".png"), self.paths.images / re.sub(r"\bVG_100K(_2)?\b", "images", name))
        return path if is_there(path) else next((other for other in others if is_there(other)), path)

    def example(self, index: int, rng: Random) -> TrainingExample:  # noqa: ARG002
        return self._example(self.items[index], open_image)

    def _example(self, item: Annotation, open_picture: Callable[[Path], Image.Image]) -> TrainingExample:
        for turn in item.items("conversations"):
            turn.text("value")
            if turn.text("from") not in ("human", "gpt", "system"):
                raise DataError(f"{item.where()}: field '{turn.prefix}from' must be human or gpt.")
        paths = [str(self._existing(name)) for name in self._names(item)]
        try:
            turns = read_turns({**item.values, "image": paths}, Path(), open_picture=open_picture)
        except RequestError as error:
            raise DataError(f"{item.where()}: fields 'image' and 'conversations': {error}") from error
        return example_of_turns(turns, item)


def example_of_turns(turns: list[Turn], item: Annotation) -> TrainingExample:
    """Turns as an example; an open question at the end is left out. Raises DataError unless they alternate."""
    turns = turns[: len(turns) // 2 * 2]
    roles = [turn.role for turn in turns]
    if not turns or roles != ["user", "assistant"] * (len(turns) // 2):
        raise DataError(f"{item.where()}: field 'conversations' must alternate between human and gpt.")
    return TrainingExample(tuple(turns))
