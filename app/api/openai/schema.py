"""The fields of a request: which are read, which are refused, and which make no difference.

A field that would change the answer and is not supported is an error that names it, unless its value asks for nothing.
All other fields (`user`, `metadata`, `store`, …) are left alone: clients send many.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from app.api.openai.api_errors import ApiError
from models.conversation import Sampling
from models.errors import RequestError
from models.sampling_settings import settings_of

T = TypeVar("T", bound=BaseModel)
MAX_STOPS = 4
MAX_STOP_CHARACTERS = 500
SETTINGS = {setting.name for setting in settings_of(Sampling())}
LEAST_TOP_P = 1e-6  # top_p 0 is allowed by OpenAI; the likeliest token alone is left by this one, too

# Not supported; the values that ask for nothing. None always is one.
WITHOUT_EFFECT: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "top_k": (0, -1),
    "min_p": (0,),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "web_search_options": (),
}


class StreamOptions(BaseModel):
    """What a stream carries beside the text."""

    model_config = ConfigDict(extra="allow", strict=True)

    include_usage: bool | None = None


class CommonFields(BaseModel):
    """What all routes that ask a model have in common. Fields may be null."""

    model_config = ConfigDict(extra="allow", strict=True)

    model: str | None = None
    stream: bool | None = None


class SamplingFields(BaseModel):
    """How an answer is drawn; `max_completion_tokens` wins over `max_tokens`.

    All of `models.sampling_settings` is read by its name there; a field here only adds the check of its type.
    """

    model_config = ConfigDict(extra="allow", strict=True)

    max_completion_tokens: int | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    repetition_penalty: float | None = None
    seed: int | None = None


class ChatRequest(CommonFields, SamplingFields):
    """The body of `/v1/chat/completions`.

    `task` and `read_text` are ours: see `with_task`; whether the text in pictures is read, where the model has that.
    """

    messages: list[dict[str, Any]] = Field(min_length=1)
    stream_options: StreamOptions | None = None
    stop: str | list[str] | None = None
    task: str | None = None
    read_text: bool | None = None

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends with a chunk for the usage."""
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def stops(self) -> tuple[str, ...]:
        """The texts that end the answer. Raises ApiError for too many, an empty or a long one."""
        stops = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        if len(stops) > MAX_STOPS or not all(0 < len(stop) <= MAX_STOP_CHARACTERS for stop in stops):
            message = f"stop must be at most {MAX_STOPS} texts of 1 to {MAX_STOP_CHARACTERS} characters."
            raise ApiError(400, message, code="invalid_value", param="stop")
        return stops


def read_request(kind: type[T], body: dict[str, Any]) -> T:
    """The body as a request of this kind. Raises ApiError 400 with the field at fault."""
    for name, harmless in WITHOUT_EFFECT.items():
        value = body.get(name)
        if value is not None and value not in harmless and name not in SETTINGS:
            raise ApiError(
                400, f"{name} is not supported here; leave it out.", code="unsupported_parameter", param=name
            )
    try:
        return kind.model_validate(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        param = _path(first["loc"])
        message = f"{param}: {first['msg'][:1].lower()}{first['msg'][1:]}."
        raise ApiError(400, message, code="invalid_type", param=param) from error


def sampling_of(request: SamplingFields, usual: Sampling) -> Sampling:
    """The settings of an answer: the request's, or else the family's. Raises ApiError for one out of its range."""
    longest = "max_tokens" if request.max_completion_tokens is None else "max_completion_tokens"
    values: dict[str, Any] = {}
    for setting in settings_of(usual):
        param = longest if setting.name == "max_new_tokens" else setting.name
        value = getattr(request, param, None)  # one without a field of its own here is among those that are extra
        if value is not None:
            value = LEAST_TOP_P if (param, value) == ("top_p", 0) else value
            try:
                values[setting.name] = replace(setting, name=param).check(value)
            except RequestError as error:
                raise ApiError(400, str(error), code="invalid_value", param=param) from error
    return replace(usual, **values)


def _path(location: tuple[str | int, ...]) -> str:
    """("messages", 0) as `messages[0]`; the names of a union's alternatives, which follow, are left out."""
    path = ""
    for step in location:
        if isinstance(step, int):
            path += f"[{step}]"
        elif step.isidentifier() and not (path and step in ("str", "int", "float", "bool")):
            path += f".{step}" if path else step
    return path
