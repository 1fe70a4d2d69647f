"""JSON from outside, read field by field: whatever is not as it should be is one line that names the field."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from app.chat.encoding import well_formed
from models.errors import RequestError

# Values of a file. Each takes some hundred bytes and is made while everybody waits: 25 MiB can hold eight million.
MAX_VALUES = 500_000


@dataclass(frozen=True)
class Value:
    """A value and where it stands, such as `chat.json: exchanges[3].answer.text`."""

    content: Any
    place: str

    def wrong(self, what: str) -> RequestError:
        """An error about this value, to be raised."""
        return RequestError(f"{self.place} {what}.")

    def object(self, *names: str, optional: Sequence[str] = ()) -> dict[str, Value]:
        """Its fields, which must be these; those that are `optional` may be missing."""
        content = self._of(dict, "an object")
        for name in content.keys() - {*names, *optional}:
            raise self.wrong(f"has a field that is not known: {well_formed(name)[:40]!r}")
        for name in names:
            if name not in content:
                raise self.wrong(f"has no field {name!r}")
        there = [*names, *(name for name in optional if name in content)]
        return {name: Value(content[name], self._inside(name)) for name in there}

    def entries(self, most: int) -> Iterator[tuple[str, Value]]:
        """Name and value of every field, whatever they are called."""
        content = self._of(dict, "an object")
        self._check_length(len(content), most)
        for name, value in content.items():
            yield well_formed(name), Value(value, self._inside(repr(well_formed(name)[:40])))

    def items(self, most: int) -> list[Value]:
        content = self._of(list, "a list")
        self._check_length(len(content), most)
        return [Value(value, f"{self.place}[{index}]") for index, value in enumerate(content)]

    def text(self, most: int) -> str:
        content: str = self._of(str, "a text")
        self._check_length(len(content), most, "characters")
        return well_formed(content)

    def flag(self) -> bool:
        content: bool = self._of(bool, "true or false")
        return content

    def number(self, most: float) -> float:
        """A number from 0 to `most`."""
        content = self.content
        is_number = isinstance(content, int | float) and not isinstance(content, bool)
        if not is_number or not 0 <= content <= most or not math.isfinite(content):
            raise self.wrong(f"must be a number from 0 to {most:g}")
        return float(content)

    def _inside(self, name: str) -> str:
        return f"{self.place}{'' if self.place.endswith(': ') else '.'}{name}"

    def _of(self, kind: type, what: str) -> Any:
        if not isinstance(self.content, kind):
            raise self.wrong(f"must be {what}")
        return self.content

    def _check_length(self, length: int, most: int, what: str = "entries") -> None:
        if length > most:
            raise self.wrong(f"has {length} {what}; the limit is {most}")


def read_json(data: bytes, name: str) -> Value:
    """The value of a JSON file. Raises RequestError, one line with the file's name, for one that can't be read."""
    if sum(map(data.count, (b",", b"[", b"{"))) > MAX_VALUES:
        raise RequestError(f"{name} holds more than {MAX_VALUES:,} values, which is the limit of such a file.")
    try:
        content = json.loads(data.decode("utf-8-sig"), parse_constant=_no_constant)
    except (ValueError, RecursionError):  # no UTF-8, no JSON, a number of thousands of digits, or nested too deeply
        raise RequestError(f"{name} is no JSON file that can be read.") from None
    return Value(content, f"{name}: ")


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")
