"""Annotation files with errors that name file, line and field.

Files are read with `json` as a whole; where an item stands in its file is worked out only when an error needs it.
"""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from models.errors import MiniVLMError

Value = TypeVar("Value")
_LARGEST = 1e15  # whole numbers up to there are exact as floats
_SPACE = re.compile(r"\s*")
_KINDS = {str: "text", int: "a whole number", float: "a number", list: "a list", dict: "a mapping"}


class DataError(MiniVLMError):
    """A data folder or annotation file is not as its format says. One line: file, line, field, what to do."""


@dataclass(frozen=True)
class Annotation:
    """One annotated item; every access to a field checks that it is there and of its kind.

    `where` says, for an error, in which file and line the item stands.
    """

    values: Any
    where: Callable[[], str]
    prefix: str = ""

    def get(self, field: str, kind: type[Value]) -> Value:
        """The field's value. Raises DataError if it is missing or of another kind; whole numbers pass for numbers."""
        value = self.values.get(field) if isinstance(self.values, dict) else None
        fits = is_number(value) if kind is float else isinstance(value, kind) and not isinstance(value, bool)
        if not fits:
            found = "is missing" if value is None else f"is {_shorten(value)}"
            raise DataError(f"{self.where()}: field '{self.prefix}{field}' {found}; it must be {_KINDS[kind]}.")
        return value  # type: ignore[return-value]  # the isinstance above says so

    def text(self, field: str) -> str:
        """A text field."""
        return self.get(field, str)

    def optional_text(self, field: str) -> str | None:
        """A text field that may be absent or null."""
        return self.text(field) if self.has(field) else None

    def has(self, field: str) -> bool:
        """Whether the field is there and not null."""
        return isinstance(self.values, dict) and self.values.get(field) is not None

    def identifier(self, field: str) -> str:
        """An id, which files write as a number or as text."""
        value = self.values.get(field) if isinstance(self.values, dict) else None
        return str(value) if isinstance(value, int) and not isinstance(value, bool) else self.text(field)

    def one_of(self, field: str, values: Mapping[str, Value]) -> Value:
        """What `values` has for the field, whose case does not count, written as text or as a whole number."""
        found = self.identifier(field).lower()
        if found not in values:
            allowed = " or ".join(values)
            raise DataError(f"{self.where()}: field '{self.prefix}{field}' is {_shorten(found)}; it must be {allowed}.")
        return values[found]

    def texts(self, field: str) -> list[str]:
        """A list of texts, not empty."""
        values = self.get(field, list)
        if not values or not all(isinstance(value, str) for value in values):
            raise DataError(f"{self.where()}: field '{self.prefix}{field}' must be a list of texts, not empty.")
        return values

    def numbers(self, field: str, count: int) -> list[float]:
        """A list of `count` numbers."""
        values = self.get(field, list)
        if len(values) != count or not all(map(is_number, values)):
            found = _shorten(values)
            raise DataError(f"{self.where()}: field '{self.prefix}{field}' must be {count} numbers, not {found}.")
        return values

    def items(self, field: str) -> list[Annotation]:
        """A list of mappings, not empty."""
        values = self.get(field, list)
        if not values:
            raise DataError(f"{self.where()}: field '{self.prefix}{field}' is empty.")
        return [Annotation(value, self.where, f"{self.prefix}{field}[{index}].") for index, value in enumerate(values)]


class Annotations(Sequence[Annotation]):
    """The items of a JSON file: a list, a list under `key`, or (`keyed`) a mapping whose keys go to `name_of`."""

    def __init__(self, path: Path, *, key: str | None = None, keyed: bool = False) -> None:
        self.path = path
        self._key = key
        values = read_json(path)
        if key is not None:
            values = values.get(key) if isinstance(values, dict) else None
        if not isinstance(values, dict if keyed else list):
            inside = f" under the key '{key}'" if key else ""
            wanted = _KINDS[dict if keyed else list]
            raise DataError(f"{path}: expected {wanted} of items{inside}; is it the right annotation file?")
        if not values:
            raise DataError(f"{path}: there are no items in it.")
        self._names = list(values) if keyed else []
        self._values: list[Any] = list(values.values()) if isinstance(values, dict) else values

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, index: int) -> Annotation:  # type: ignore[override]  # no slices
        return Annotation(self._values[index], lambda: self.where(index))

    def name_of(self, index: int) -> str:
        """The key of an item of a keyed file."""
        return str(self._names[index])

    def where(self, index: int) -> str:
        """File and line of an item, for messages."""
        line = line_of_item(self.path.read_text(encoding="utf-8"), index, self._key)
        return f"{self.path}, line {line} (item {index})"


def read_json(path: Path) -> Any:
    """A JSON file's content. Raises DataError with file and line."""
    try:
        text = path.read_text(encoding="utf-8")
        return json.loads(text)
    except FileNotFoundError as error:
        raise DataError(f"{path} not found; set `annotations` in the training config.") from error
    except json.JSONDecodeError as error:
        where = f"{path}, line {error.lineno}"
        if is_json_lines(text):
            raise DataError(
                f"{where}: a value on every line (JSON lines), but this format is one list; put [ before the first "
                "line, a comma behind every line but the last, and ] at the end."
            ) from error
        raise DataError(f"{where}: not valid JSON ({error.msg}); correct it, or download it again.") from error
    except (OSError, ValueError, RecursionError) as error:  # ValueError: no UTF-8, or numbers of thousands of digits
        raise DataError(f"{path} can't be read ({error}).") from error


def is_json_lines(text: str) -> bool:
    """Whether the first two lines that are not empty hold a JSON value each."""
    lines = [line for line in text.splitlines() if line.strip()][:2]
    try:
        return len([json.loads(line) for line in lines]) == 2
    except (ValueError, RecursionError):
        return False


def line_of_item(text: str, index: int, key: str | None = None) -> int:
    """Line on which the item `index` of a JSON list or mapping begins; with `key`, of the list under that key."""
    start = _skip_space(text, 0)
    if key is not None:
        start = next(position for name, position in _members(text, start) if name == key)
    for count, (_, position) in enumerate(_members(text, start)):
        if count == index:
            return text.count("\n", 0, position) + 1
    raise IndexError(index)


def _members(text: str, start: int) -> Iterator[tuple[str | None, int]]:
    """Name (in a mapping) and position of every value of the list or mapping that begins at `start`."""
    decoder = json.JSONDecoder()
    is_mapping = text[start] == "{"
    position = _skip_space(text, start + 1)
    while text[position] not in "]}":
        name = None
        if is_mapping:
            name, position = decoder.raw_decode(text, position)
            position = _skip_space(text, _skip_space(text, position) + 1)  # the colon
        yield name, position
        _, position = decoder.raw_decode(text, position)
        position = _skip_space(text, position)
        if text[position] == ",":
            position = _skip_space(text, position + 1)


def _skip_space(text: str, position: int) -> int:
    match = _SPACE.match(text, position)
    assert match is not None
    return match.end()


def is_number(value: Any) -> bool:
    """Whether it is a number to reckon with: not NaN (which Python reads in JSON), nor beyond all measure."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _LARGEST


def _shorten(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"


# What reading a cut or altered pickle raises.
_NO_PICKLE = (
    pickle.UnpicklingError, ArithmeticError, AttributeError, EOFError, LookupError, MemoryError, TypeError, ValueError
)  # fmt: skip


class _PlainUnpickler(pickle.Unpickler):
    """Lists, dicts, numbers and texts only: a pickle that names any class or function is refused."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it refers to {module}.{name}")


def read_plain_pickle(path: Path) -> Any:
    """A pickle of plain values, such as `refs(unc).p`; code inside never runs. Raises DataError."""
    try:
        with path.open("rb") as file:
            return _PlainUnpickler(file, encoding="latin1").load()
    except FileNotFoundError as error:
        raise DataError(f"{path} not found; set `annotations` in the training config.") from error
    except (OSError, *_NO_PICKLE) as error:
        raise DataError(f"{path} is not a pickle of plain values ({error}); download it again.") from error
