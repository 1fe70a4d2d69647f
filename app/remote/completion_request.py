"""Turns as the body of a chat completion."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

from PIL import Image

from app.chat.picture_uri import picture_uri
from app.chat.questions import question_part, task_of
from app.remote.boxes.box_format import Size
from app.remote.remote_tasks import sent_text
from app.remote.served_elsewhere import ServedElsewhere
from models.conversation import Sampling, Turn
from models.errors import RequestError
from models.sampling_settings import settings_of

LOSSLESS_PIXELS = 1024 * 1024  # larger pictures are sent as JPEG, at a quality at which nobody sees the difference
JPEG_QUALITY = 95
UriOf = Callable[[Image.Image], str]
LLAMA_CPP_NAMES = {"repetition_penalty": "repeat_penalty"}  # it ignores names that it does not know
OPENAI_NAMES = {"temperature": "temperature", "top_p": "top_p", "max_new_tokens": "max_tokens", "seed": "seed"}


def uri_as_sent(image: Image.Image) -> str:
    """The picture as a data URI: PNG, or JPEG if it is large."""
    if image.width * image.height <= LOSSLESS_PIXELS:
        return picture_uri(image, "png")
    return picture_uri(image, "jpeg", quality=JPEG_QUALITY, subsampling=0)


def request_body(served: ServedElsewhere, turns: Sequence[Turn], sampling: Sampling, uri_of: UriOf) -> dict[str, Any]:
    """What is posted, with pictures as `uri_of` gives them. Raises RequestError for turns that do not end with a
    question."""
    if not turns or turns[-1].role != "user":
        raise RequestError("The conversation must end with a question.")
    body: dict[str, Any] = {
        "model": served.model,
        "messages": [_message(served, turns, index, uri_of) for index in range(len(turns))],
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    names = {**OPENAI_NAMES, **LLAMA_CPP_NAMES} if served.is_llama_cpp else OPENAI_NAMES
    for setting in settings_of(sampling):
        value = getattr(sampling, setting.name)
        # What OpenAI's API lacks not every server knows: it is not sent when it asks for nothing.
        if served.is_ours or setting.name in OPENAI_NAMES or value != setting.neutral:
            body[names.get(setting.name, setting.name)] = value
    task = task_of(turns[-1].text, served.info.tasks)
    if served.is_ours and task is not None:
        body["task"] = task.identifier.strip("[]")
    body |= {**served.boxes.extra_body, **served.config.extra_body}
    return {name: value for name, value in body.items() if value is not None}


def _message(served: ServedElsewhere, turns: Sequence[Turn], index: int, uri_of: UriOf) -> dict[str, Any]:
    turn = turns[index]
    if turn.role == "assistant":
        return {"role": "assistant", "content": turn.text}
    tasks = served.info.tasks
    if served.is_ours:  # it knows its tasks by itself; that of the last question is named in the body
        text = question_part(turn.text, tasks) if index == len(turns) - 1 else turn.text
    else:
        size = picture_size(turns[: index + 1])
        text = sent_text(turn.text, tasks, lambda box: served.boxes.write(box, size))
    if not turn.images:
        return {"role": "user", "content": text}
    parts: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": uri_of(image)}} for image in turn.images]
    return {"role": "user", "content": [*parts, {"type": "text", "text": text}]}


def picture_size(turns: Sequence[Turn]) -> Size:
    """Width and height of the last picture."""
    return next((turn.images[-1].size for turn in reversed(turns) if turn.images), (1, 1))


def session_id(turns: Sequence[Turn], uri_of: UriOf) -> str:
    """The same for all questions of a conversation, so that a router may send them to one machine, which knows the
    beginning already. It tells nothing that the request does not."""
    first = turns[0]
    digest = hashlib.sha256(first.text.encode("utf-8", "replace"))
    for image in first.images:
        digest.update(uri_of(image).encode())
    return digest.hexdigest()[:32]
