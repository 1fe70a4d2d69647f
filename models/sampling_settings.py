"""One setting of an answer, described once: its range, how the page offers it, what people are told about it.

Every field of `Sampling` (models/conversation.py) is such a setting. The page's sidebar, `/chat`, `/v1`, the request to
another server, the Details of an answer and the check of the range read the descriptions; YAML keys and `--options` are
the fields' names. What a new setting needs besides its field is the code that heeds it: engine/sampling.py,
engine/batching/request_sampler.py, and engine/generate.py for beams and prompt lookup. It goes after the last field:
clients of `/chat` send values by their places, and those of older fields stay.
"""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Protocol, TypeVar

from models.errors import RequestError


class Settings(Protocol):
    """A dataclass whose fields are all made by `setting`: `Sampling`."""

    __dataclass_fields__: ClassVar[dict[str, Any]]


T = TypeVar("T")
S = TypeVar("S", bound=Settings)


@dataclass(frozen=True, kw_only=True)
class SamplingSetting:
    """What is known of one setting.

    `low` to `high` is the range that is accepted, without `low` itself if `above_low`; a value up to `zero_below`
    counts as 0; `neutral` is one that changes nothing. `slider` is what the page offers: its ends and its step; without
    one it is a text box. `when_empty`: it may be None, which then means this. `in_tokens`: it limits the answer's
    length, so the context limits it. `detail` words a value for the Details of an answer; `is_for_draws`: greedy
    answers do without it.
    """

    name: str = ""
    low: float
    high: float
    above_low: bool = False
    zero_below: float | None = None
    neutral: float | None = None
    is_whole: bool = False
    in_tokens: bool = False
    is_for_draws: bool = False
    slider: tuple[float, float, float] | None = None
    when_empty: str = ""
    label: str
    help: str
    detail: str

    def check(self, value: Any) -> float | None:
        """The value, a whole number as int. Raises RequestError, one line, for one that can't be used."""
        if value is None and self.when_empty:
            return None
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not self.low <= value <= self.high or (self.above_low and value == self.low):
            bounds = f"{'more than' if self.above_low else 'at least'} {self.low:g} and at most {self.high:g}"
            raise RequestError(f"{self.name} is {reprlib.repr(value)}; it must be a number, {bounds}.")
        if self.is_whole:
            if value != int(value):
                raise RequestError(f"{self.name} is {value:g}; it must be a whole number.")
            return int(value)
        return 0.0 if self.zero_below is not None and value <= self.zero_below else float(value)


def setting(default: T, **description: Any) -> T:
    """A field of `Sampling` with its default and its description; see `SamplingSetting`."""
    return field(default=default, metadata={"setting": SamplingSetting(**description)})


def settings_of(sampling: Settings) -> tuple[SamplingSetting, ...]:
    """The descriptions of all settings, in the order in which the page and the endpoint have them."""
    return tuple(replace(one.metadata["setting"], name=one.name) for one in fields(sampling))


def with_values(sampling: S, values: Sequence[Any]) -> S:
    """The settings with these values, one for each of `settings_of`, unchecked."""
    return replace(sampling, **{one.name: value for one, value in zip(settings_of(sampling), values, strict=True)})


def check(sampling: S) -> S:
    """The settings with whole numbers as int. Raises RequestError, one line, for a value that can't be used."""
    return with_values(sampling, [one.check(getattr(sampling, one.name)) for one in settings_of(sampling)])
