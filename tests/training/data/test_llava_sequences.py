"""Sequences and labels of the LLaVA line beyond the recorded ones: every format, several turns, limits, annotations."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from PIL import Image

from models.conversation import Turn
from models.errors import RequestError
from models.formats.llava import FORMATS
from models.vision_language_model import IGNORED_LABEL, IMAGE_PLACEHOLDER, VisionLanguageModel
from tests.tiny_model import FIRST_BYTE, picture, tiny_model
from training.data.annotations import DataError
from training.data.llava_sequences import PLAIN, make_llava_batch, read_turns
from training.data.minigpt_sequences import Batch

PICTURE = picture(0)
TURNS = [
    Turn("user", "What is it?", (PICTURE,)),
    Turn("assistant", "A cat."),
    Turn("user", "Sure?"),
    Turn("assistant", "Yes."),
]
# What the reference supervises, one piece per answer; the beginning-of-text after Mixtral's answers is never among it.
SUPERVISED = {
    "vicuna_v1": [" A cat.</s>", " Yes.</s>"],
    "gemma": ["A cat.<end_of_turn>\n<eos>", "Yes.<end_of_turn>\n<eos>"],
    "llama_3": ["A cat.<|eot_id|>", "Yes.<|eot_id|>"],
    "mistral_instruct": [" A cat. </s>", " Yes. </s>"],
    "chatml_direct": ["A cat.<|im_end|>", "Yes.<|im_end|>"],
}


@pytest.fixture(scope="module")
def model() -> VisionLanguageModel:
    return tiny_model()


def text_of(ids: Sequence[int]) -> str:
    return bytes(i - FIRST_BYTE for i in ids if i >= FIRST_BYTE).decode()


def supervised(batch: Batch, row: int = 0) -> list[str]:
    """The predicted runs of a row as texts."""
    runs: list[list[int]] = [[]]
    for label in batch.labels[row].tolist():
        if label != IGNORED_LABEL:
            runs[-1].append(label)
        elif runs[-1]:
            runs.append([])
    return [text_of(run) for run in runs if run]


@pytest.mark.parametrize("name", SUPERVISED)
def test_every_answer_and_what_closes_it_is_predicted_and_nothing_else(name: str, model: VisionLanguageModel) -> None:
    batch = make_llava_batch(model, [TURNS], prompt_format=FORMATS[name])
    assert supervised(batch) == SUPERVISED[name]
    ids = batch.input_ids[0]
    assert (ids == IMAGE_PLACEHOLDER).sum() == model.num_image_tokens
    labels = batch.labels[0]
    assert torch.equal(labels[labels != IGNORED_LABEL], ids[labels != IGNORED_LABEL])
    prompt = FORMATS[name].render(TURNS[:3])
    expected = "".join(part for part in prompt if isinstance(part, str)) + FORMATS[name].closed("Yes.")
    assert text_of(ids.tolist()) == expected


def test_plain_leaves_the_question_out(model: VisionLanguageModel) -> None:
    batch = make_llava_batch(model, [TURNS[:2]], prompt_format=PLAIN)
    assert batch.input_ids[0].tolist()[: 1 + model.num_image_tokens] == [1] + [IMAGE_PLACEHOLDER] * 4
    assert supervised(batch) == ["A cat.\n"]
    assert text_of(batch.input_ids[0].tolist()) == "A cat.\n"


def test_text_only_and_shorter_rows_are_padded_and_masked(model: VisionLanguageModel) -> None:
    batch = make_llava_batch(model, [TURNS, [Turn("user", "Hi"), Turn("assistant", "Ho")]])
    lengths = batch.attention_mask.sum(dim=1)
    assert lengths[1] < lengths[0] == batch.input_ids.shape[1]
    assert (batch.labels[1, lengths[1] :] == IGNORED_LABEL).all()
    assert batch.pixel_values is not None
    assert len(batch.pixel_values) == 1
    only_text = make_llava_batch(model, [[Turn("user", "Hi"), Turn("assistant", "Ho")]])
    assert only_text.pixel_values is None
    assert model(**vars(batch)).loss.isfinite()


def test_long_conversations_are_cut_on_the_right(model: VisionLanguageModel) -> None:
    whole = make_llava_batch(model, [TURNS])
    length = whole.input_ids.shape[1]
    cut = make_llava_batch(model, [TURNS], max_tokens=length - 5)
    assert torch.equal(cut.input_ids, whole.input_ids[:, :-5])
    assert torch.equal(cut.labels, whole.labels[:, :-5])
    # An image counts as one token in the first cut, which alone is used without cuts_after_images.
    uncut = make_llava_batch(model, [TURNS], max_tokens=length - 3, cuts_after_images=False)
    assert torch.equal(uncut.input_ids, whole.input_ids)


def test_an_image_that_does_not_fit_is_an_error_and_not_half_an_image(model: VisionLanguageModel) -> None:
    with pytest.raises(DataError, match="images do not fit in 16 tokens"):
        make_llava_batch(model, [TURNS], max_tokens=16)


def test_annotations_become_turns(tmp_path: Path) -> None:
    PICTURE.save(tmp_path / "a.png")
    item = {
        "id": "0",
        "image": "a.png",
        "conversations": [
            {"from": "gpt", "value": "dropped, as nobody asked"},
            {"from": "human", "value": "What is it?\n<image>"},
            {"from": "gpt", "value": "A cat."},
        ],
    }
    question, answer = read_turns(item, tmp_path)
    assert (question.text, answer.text) == ("What is it?", "A cat.")
    assert [image.tobytes() for image in question.images] == [PICTURE.tobytes()]


@pytest.mark.parametrize(
    ("images", "text"), [([], "<image>\nWhat?"), (["a.png"], "What?"), (["a.png"], "<image><image>")]
)
def test_annotations_with_another_number_of_images_are_refused(images: list[str], text: str, tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    item = {"id": "7", "image": images, "conversations": [{"from": "human", "value": text}]}
    with pytest.raises(RequestError, match=r"^Item 7: .*<image>"):
        read_turns(item, tmp_path)
