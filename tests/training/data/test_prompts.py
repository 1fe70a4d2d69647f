"""Examples become exactly the batches of which loss and gradients were recorded (tests/test_parity.py)."""

from __future__ import annotations

from functools import cache
from random import Random

import pytest
import torch
from PIL import Image

from models.loader import load_model
from models.vision_language_model import VisionLanguageModel
from tests.recorded_case import Case
from tests.training.tiny_stages import GOLDENS
from training.data.annotations import DataError
from training.data.minigpt_sequences import Batch
from training.data.prompts import BatchSide, PromptMaker
from training.data.readers import TrainingExample, make_example
from training.families import minigpt4, minigpt_v2, tinygpt_v
from training.instructions import ALIGNMENT_PROMPTS
from training.recipe import TextRecipe

V2 = TextRecipe(prompt="instruction", template="[INST] {} [/INST]", answer_end="</s>", max_tokens=500)


@cache
def model_of(case: str) -> VisionLanguageModel:
    return load_model(GOLDENS / case / "config.yaml", device="cpu", report=None)


def assert_recorded(case: str, kind: str, make: PromptMaker, text: TextRecipe, examples: list[TrainingExample]) -> None:
    model = model_of(case)
    ours = make(BatchSide(model), examples, text, Random(0))
    recorded = Case(GOLDENS / case).step(kind).make_batch(model)
    assert_equal(ours, recorded)


def assert_equal(ours: Batch, recorded: Batch) -> None:
    for name, tensor in vars(recorded).items():
        value = vars(ours)[name]
        assert (value is None) == (tensor is None)
        if tensor is not None:
            assert torch.equal(value, tensor), name


def pictures(case: str) -> list[Image.Image]:
    return [Case(GOLDENS / case).image(name) for name in ("image.png", "image2.png")]


def test_instructions() -> None:
    first, second = pictures("minigpt_v2")
    examples = [
        make_example(["[refer] where is the ball ?"], ["{<10><20><90><100>}"], [first]),
        make_example(["[caption] Briefly describe this image."], ["a boat and two birds"], [second]),
    ]
    assert_recorded("minigpt_v2", "batch", minigpt_v2.PROMPTS["instruction"], V2, examples)


def test_conversations() -> None:
    first, second = pictures("minigpt_v2")
    turns = ["what is this", "how many windows do you see in the building?"]
    boxes = "<p>sofas</p> {<1><2><30><40>}<delim>{<12><34><56><78>}"
    examples = [
        make_example(turns, ["it is a tower", "There are seven windows and one door."], [first]),
        make_example(["[detection] sofas"], [boxes], [second]),
    ]
    assert_recorded("minigpt_v2", "conversation", minigpt_v2.PROMPTS["instruction"], V2, examples)


def test_text_alone() -> None:
    examples = [
        make_example(["write a poem about the sea"], ["the sea is grey and calm"]),
        make_example(["How many? "], ["seven"]),
    ]
    assert_recorded("minigpt_v2", "text_only", minigpt_v2.PROMPTS["instruction"], V2, examples)


def test_the_picture_alone() -> None:
    text = TextRecipe(prompt="image", answer_end="\n", max_tokens=32)
    captions = ["a small red house near a lake", "three round shapes and a yellow square on the table"]
    pairs = zip(captions, pictures("minigpt4-vicuna0"), strict=True)
    examples = [make_example([""], [caption], [image]) for caption, image in pairs]
    assert_recorded("minigpt4-vicuna0", "stage1", minigpt4.PROMPTS["image"], text, examples)


class Always(Random):
    """Draws one of the alignment prompts."""

    def __init__(self, number: int) -> None:
        super().__init__(0)
        self.number = number

    def choice(self, seq: object) -> str:  # type: ignore[override]
        assert seq == ALIGNMENT_PROMPTS
        return ALIGNMENT_PROMPTS[self.number]


def test_alignment_prompts_are_shared_by_a_batch() -> None:
    text = TextRecipe(prompt="alignment", template="###Human: {} ###Assistant: ", answer_end="###", max_tokens=160)
    case = "tinygptv-stage3"
    answers = [
        "The picture shows a red square next to a blue circle.",
        "There are 3 shapes and a yellow line on the left.",
    ]
    examples = [make_example([""], [a], [image]) for a, image in zip(answers, pictures(case), strict=True)]
    model = model_of(case)
    ours = tinygpt_v.PROMPTS["alignment"](BatchSide(model), examples, text, Always(0))
    assert_equal(ours, Case(GOLDENS / case).step("batch").make_batch(model))
    other = tinygpt_v.PROMPTS["alignment"](BatchSide(model), examples, text, Always(3))
    assert other.input_ids.shape != ours.input_ids.shape


def test_one_picture_only() -> None:
    example = make_example(["what?"], ["that"], pictures("minigpt_v2"))
    with pytest.raises(DataError, match="2 pictures; this family takes one"):
        minigpt_v2.PROMPTS["instruction"](BatchSide(model_of("minigpt_v2")), [example], V2, Random(0))
