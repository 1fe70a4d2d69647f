"""Conversations -> the token sequences and labels of the LLaVA line (Mini-Gemini, MoE-LLaVA).

What is predicted is exactly what the model writes at inference: after each prompt, the answer and what closes it. The
originals find the same tokens by counting those of every round apart and throw a sample away where the sums disagree
("tokenization mismatch"); here the boundaries come from the prompts themselves, so no sample is lost.
Source: LLaVA, `train.py`, `preprocess_v1`, `preprocess_plain`, `preprocess_multimodal` and their variants.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from models.conversation import Role, Turn
from models.errors import RequestError
from models.formats.llava import FORMATS
from models.prompt import PromptFormat, Segment
from models.vision_language_model import IGNORED_LABEL, IMAGE_PLACEHOLDER, ImageProcessor, VisionLanguageModel
from training.data.annotations import DataError
from training.data.minigpt_sequences import Batch, Row, pad_rows
from training.data.readers import open_image

PLAIN = FORMATS["plain"]  # stage 1 of Vicuna, Mixtral, Yi and of every MoE-LLaVA: the question is left out

_ROLES: Mapping[str, Role] = {"human": "user", "gpt": "assistant"}
_MARK = "<image>"


def read_turns(
    item: Mapping[str, Any], folder: Path, *, open_picture: Callable[[Path], Image.Image] = open_image
) -> list[Turn]:
    """One item of an annotation file as turns; its pictures, if any, are opened from `folder`.

    `item` is {"image": path (or a list, optional), "conversations": [{"from": "human" | "gpt", "value": text}, ...]}.
    Where `<image>` stands in a question does not matter: the picture goes in front, as in the originals. Raises
    RequestError if pictures and `<image>` differ in number, and MissingImage.
    """
    names = item.get("image") or []
    names = [names] if isinstance(names, str) else list(names)
    messages = [message for message in item["conversations"] if message["from"] in _ROLES]
    if messages and messages[0]["from"] != "human":
        messages = messages[1:]
    turns: list[Turn] = []
    for message in messages:
        role, text = _ROLES[message["from"]], message["value"]
        count = text.count(_MARK) if role == "user" else 0
        if count > len(names):
            raise RequestError(
                f"Item {item.get('id')}: a question has {count} {_MARK}, but {len(names)} images remain."
            )
        images = tuple(open_picture(folder / name) for name in names[:count])
        names = names[count:]
        turns.append(Turn(role, text.replace(_MARK, "").strip() if count else text, images))
    if names:
        raise RequestError(f"Item {item.get('id')}: no question has an {_MARK} for {names[0]}.")
    return turns


def make_llava_batch(
    model: VisionLanguageModel,
    conversations: Sequence[Sequence[Turn]],
    *,
    prompt_format: PromptFormat | None = None,
    image_processor: ImageProcessor | None = None,
    max_tokens: int = 2048,
    cuts_after_images: bool = True,
) -> Batch:
    """Conversations, each ending with an answer, as one batch padded on the right.

    `prompt_format` and `image_processor` are the model's own unless given: stage 1 has others (`PLAIN`, the centre
    crop). Sequences are cut at their right end to `max_tokens`, an image counting as one token, and with
    `cuts_after_images` (Mini-Gemini) once more with all its tokens counted. Raises DataError if that would cut into an
    image.
    """
    # "Image k:" is a habit of the chat; the training samples do not number their images.
    form = replace(prompt_format or model.prompt_format, numbers_images=False)
    if form == PLAIN:
        conversations = [[replace(turns[0], text=""), *turns[1:]] for turns in conversations]
    rows = [_row(model, form, turns, max_tokens, cuts_after_images=cuts_after_images) for turns in conversations]
    images = [image for turns in conversations for turn in turns for image in turn.images]
    process = image_processor or model.image_processor
    return pad_rows(model, rows, torch.stack([process(image) for image in images]) if images else None)


def _row(
    model: VisionLanguageModel, form: PromptFormat, turns: Sequence[Turn], max_tokens: int, *, cuts_after_images: bool
) -> Row:
    """Ids, labels and attention mask of one conversation, without padding."""
    ids: list[int] = []
    labels: list[int] = []
    for index in range(1, len(turns), 2):
        *before, last = form.render(turns[:index])
        assert isinstance(last, str)
        start = len(_ids(model, [*before, last]))
        ids = _ids(model, [*before, last + form.closed(turns[index].text)])
        labels += [IGNORED_LABEL] * (start - len(labels)) + ids[start:]
    expanded = [
        (token, label)
        for token, label in zip(ids[:max_tokens], labels, strict=False)
        for _ in range(model.num_image_tokens if token == IMAGE_PLACEHOLDER else 1)
    ]
    kept = expanded[:max_tokens] if cuts_after_images else expanded
    tokens = [token for token, _ in kept]
    if tokens.count(IMAGE_PLACEHOLDER) != ids.count(IMAGE_PLACEHOLDER) * model.num_image_tokens:
        raise DataError(
            f"A conversation's images do not fit in {max_tokens} tokens ({len(expanded)} with images); raise "
            "text.max_tokens, or leave it out."
        )
    return tokens, [label for _, label in kept], [True] * len(kept)


def _ids(model: VisionLanguageModel, segments: Sequence[Segment]) -> list[int]:
    """Token ids of a rendered prompt, one placeholder for each image."""
    return [
        token
        for piece in model.tokenize(segments)
        for token in (piece if isinstance(piece, list) else [IMAGE_PLACEHOLDER])
    ]
