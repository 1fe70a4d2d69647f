"""Training samples -> the token sequences and labels of the MiniGPT runners.

Source: MiniGPT-4, `minigpt_base.py`: `preparing_embedding`, `concat_emb_input_output`, `forward`. The order in memory
is [BOS] prompt answer padding; BOS, prompt, image tokens and padding are not predicted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from models.prompt import IMAGE_SLOT
from models.vision_language_model import IGNORED_LABEL, IMAGE_PLACEHOLDER, VisionLanguageModel

Row = tuple[list[int], list[int], list[bool]]  # ids, labels, whether each is seen by attention


@dataclass(frozen=True)
class PromptedExample:
    """One training example.

    `prompt` is the whole prompt text with `<ImageHere>` where the image goes; `answers` are (text, is_predicted) pieces
    in order: one predicted answer, or answers and later questions by turns.
    """

    prompt: str
    answers: tuple[tuple[str, bool], ...]
    image: Image.Image | None = None


@dataclass(frozen=True)
class Batch:
    """What `VisionLanguageModel.forward` takes: ids, mask and labels [B, L]; pixel_values [images, 3, S, S] or None."""

    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor
    pixel_values: Tensor | None


def conversation_answers(
    questions: Sequence[str], answers: Sequence[str], *, end: str, template: str, bos: str = "<s>"
) -> tuple[tuple[str, bool], ...]:
    """The predicted part of a conversation: answer 1, then each later question (not predicted) and its answer.

    `bos` is the text of the tokenizer's BOS, which goes before each later question.
    Source: `minigpt_base.py`, `prepare_conversation`-style datasets (`conv_q`, `conv_a`).
    """
    pieces: list[tuple[str, bool]] = []
    for index, (question, answer) in enumerate(zip(questions, answers, strict=True)):
        if index:
            pieces.append((bos + template.format(question), False))
        pieces.append((answer + end, True))
    return tuple(pieces)


def make_batch(
    model: VisionLanguageModel,
    samples: Sequence[PromptedExample],
    *,
    max_text_tokens: int,
    max_prompt_tokens: int = 3800,
) -> Batch:
    """Tokenize samples as the reference does and pad them on the right.

    Answers are cut to `max_text_tokens` and prompts to `max_prompt_tokens`, at their right ends.
    """
    rows = [_row(model, sample, max_text_tokens, max_prompt_tokens) for sample in samples]
    images = [sample.image for sample in samples if sample.image is not None]
    return pad_rows(model, rows, model.pixel_values(images) if images else None)


def pad_rows(model: VisionLanguageModel, rows: Sequence[Row], pixel_values: Tensor | None) -> Batch:
    """Rows of different lengths as one batch on the model's device, padded on the right."""
    length = max(len(ids) for ids, _, _ in rows)
    # Padding is masked and comes last, so its id has no effect; 0 exists in every vocabulary.
    input_ids = torch.zeros(len(rows), length, dtype=torch.long)
    labels = torch.full((len(rows), length), IGNORED_LABEL)
    mask = torch.zeros(len(rows), length, dtype=torch.long)
    for row, (ids, targets, seen) in enumerate(rows):
        input_ids[row, : len(ids)] = torch.tensor(ids)
        labels[row, : len(ids)] = torch.tensor(targets)
        mask[row, : len(ids)] = torch.tensor(seen)
    device = model.device
    return Batch(
        input_ids.to(device),
        mask.to(device),
        labels.to(device),
        None if pixel_values is None else pixel_values.to(device),
    )


def _row(model: VisionLanguageModel, sample: PromptedExample, max_text_tokens: int, max_prompt_tokens: int) -> Row:
    """Ids, labels and attention mask of one sample, without padding."""
    encode, pad = model.tokenizer.encode, model.tokenizer.pad_token_id
    prompt: list[int] = []
    for index, chunk in enumerate(sample.prompt.split(IMAGE_SLOT)):
        if index:
            prompt += [IMAGE_PLACEHOLDER] * model.num_image_tokens
        prompt += encode(chunk)
    prompt = [model.tokenizer.bos_token_id, *prompt[:max_prompt_tokens]]
    answer: list[int] = []
    labels: list[int] = []
    for text, is_predicted in sample.answers:
        ids = encode(text)
        answer += ids
        labels += [token if is_predicted and token != pad else IGNORED_LABEL for token in ids]
    answer, labels = answer[:max_text_tokens], labels[:max_text_tokens]
    # In conversations the reference takes the pad id for padding wherever it stands (TinyGPT-V's BOS is that id).
    seen = [len(sample.answers) == 1 or token != pad for token in answer]
    return prompt + answer, [IGNORED_LABEL] * len(prompt) + labels, [True] * len(prompt) + seen
