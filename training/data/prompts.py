"""Examples -> batches, in the words each stage of the originals was trained with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import cast

import torch
from PIL import Image
from torch import Tensor

from models.prompt import IMAGE_SLOT, Segment
from models.vision_language_model import VisionLanguageModel
from training.data.annotations import DataError
from training.data.llava_sequences import PLAIN, make_llava_batch
from training.data.minigpt_sequences import Batch, PromptedExample, conversation_answers, make_batch
from training.data.readers import TrainingExample
from training.instructions import ALIGNMENT_PROMPTS
from training.recipe import TextRecipe

_INSTRUCTION = f"<Img>{IMAGE_SLOT}</Img> {{}} "  # the space behind it makes two before `[/INST]`, as in the original


class BatchSide:
    """What making batches needs of a model, without its weights: data workers hold a copy of it."""

    def __init__(self, model: VisionLanguageModel) -> None:
        self.tokenizer = model.tokenizer
        self.image_processor = model.image_processor
        self.prompt_format = model.prompt_format
        self.num_image_tokens = model.num_image_tokens
        self.device = torch.device("cpu")

    def pixel_values(self, images: Sequence[Image.Image]) -> Tensor:
        """See `VisionLanguageModel.pixel_values`."""
        return VisionLanguageModel.pixel_values(self._model, images)

    def tokenize(self, segments: Sequence[Segment]) -> list[list[int] | Image.Image]:
        """See `VisionLanguageModel.tokenize`."""
        return VisionLanguageModel.tokenize(self._model, segments)

    @property
    def _model(self) -> VisionLanguageModel:
        """Itself, for functions that take a model and use nothing else of it."""
        return cast(VisionLanguageModel, self)


PromptMaker = Callable[[BatchSide, Sequence[TrainingExample], TextRecipe, Random], Batch]


def minigpt_prompts(bos: str) -> Mapping[str, PromptMaker]:
    """The prompts of the MiniGPT line; `bos` is the text of the tokenizer's BOS, which goes before later questions.

    `image`: stage 1, the image tokens and the caption without any text before it. `alignment`: stage 2 of MiniGPT-4,
    one of the four alignment prompts, the same for the whole batch. `instruction`: the example's question in the
    template, later turns behind the answer.
    """

    def image_prompts(side: BatchSide, examples: Sequence[TrainingExample], text: TextRecipe, _: Random) -> Batch:
        return _minigpt_batch(side, [(IMAGE_SLOT, example) for example in examples], text, bos)

    def alignment_prompts(side: BatchSide, examples: Sequence[TrainingExample], text: TextRecipe, rng: Random) -> Batch:
        prompt = text.template.format(rng.choice(ALIGNMENT_PROMPTS))
        return _minigpt_batch(side, [(prompt, example) for example in examples], text, bos)

    def instruction_prompts(side: BatchSide, examples: Sequence[TrainingExample], text: TextRecipe, _: Random) -> Batch:
        prompted = []
        for example in examples:
            question = example.questions[0]
            asked = _INSTRUCTION.format(question) if example.images else question
            prompted.append((text.template.format(asked), example))
        return _minigpt_batch(side, prompted, text, bos)

    return {"image": image_prompts, "alignment": alignment_prompts, "instruction": instruction_prompts}


def _minigpt_batch(
    side: BatchSide, prompted: Sequence[tuple[str, TrainingExample]], text: TextRecipe, bos: str
) -> Batch:
    samples = []
    for prompt, example in prompted:
        if len(example.images) > 1:
            raise DataError(f"An example has {len(example.images)} pictures; this family takes one.")
        later = [f"{question} " for question in example.questions]  # the first one is in the prompt already
        answers = conversation_answers(later, example.answers, end=text.answer_end, template=text.template, bos=bos)
        samples.append(PromptedExample(prompt, answers, example.images[0] if example.images else None))
    return make_batch(cast(VisionLanguageModel, side), samples, max_text_tokens=text.max_tokens)


def llava_prompts(*, cuts_after_images: bool) -> Mapping[str, PromptMaker]:
    """`plain` (the image, the caption, a newline) and `chat` (the model's own format) of the LLaVA line."""

    def make(side: BatchSide, examples: Sequence[TrainingExample], text: TextRecipe, *, plain: bool) -> Batch:
        return make_llava_batch(
            cast(VisionLanguageModel, side),
            [example.turns for example in examples],
            prompt_format=PLAIN if plain else None,
            max_tokens=text.max_tokens,
            cuts_after_images=cuts_after_images,
        )

    return {
        "plain": lambda side, examples, text, _: make(side, examples, text, plain=True),
        "chat": lambda side, examples, text, _: make(side, examples, text, plain=False),
    }
