"""Where the answers to a file of questions go: one JSON line for each, in their order, never half a line.

A run that was stopped goes on in the same file: what is there is compared with the questions, a last line that was cut
off is taken away, and the rest is asked.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from app.batch.question_file import OWN_KEYS, Line
from models.errors import RequestError


class StandardOutput:
    """Results for a pipe or a terminal."""

    def write(self, result: dict[str, Any]) -> None:
        """One result as a line."""
        print(json.dumps(result, ensure_ascii=False), file=sys.stdout, flush=True)


class ResultFile:
    """Results at the end of a file, which is this run's alone while it is open."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("ab", buffering=0)

    def write(self, result: dict[str, Any]) -> None:
        """One result as a line. Raises RequestError where the disk takes no more."""
        line = (json.dumps(result, ensure_ascii=False) + "\n").encode("utf-8", "replace")
        try:
            while line:
                line = line[self._file.write(line) :]
        except OSError as error:
            raise RequestError(f"{self._path} can't be written ({error.strerror or error}).") from error

    def lock(self) -> None:
        """Raise RequestError where another run writes this file. Only systems with `fcntl` know."""
        try:
            import fcntl
        except ImportError:
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RequestError(
                f"{self._path} is being written by another run; choose another file for the answers."
            ) from error

    def close(self) -> None:
        """Let others have the file."""
        self._file.close()


@contextmanager
def open_results(path: Path) -> Iterator[ResultFile]:
    """The file, made if it is not there, without the half line that a killed run left. Raises RequestError."""
    try:
        results = ResultFile(path)
    except OSError as error:
        raise RequestError(f"{path} can't be written ({error.strerror or error}).") from error
    try:
        results.lock()
        content = path.read_bytes()
        if content and not content.endswith(b"\n"):
            with path.open("r+b") as file:
                file.truncate(content.rfind(b"\n") + 1)
        yield results
    finally:
        results.close()


def kept_results(path: Path, lines: Iterable[Line], model: str) -> Iterator[tuple[Line, dict[str, Any]]]:
    """The complete results that a file has, with their lines. Raises RequestError where they are of other questions."""
    if not path.is_file():
        return
    left = iter(lines)
    with path.open("rb") as file:
        for number, text in enumerate(file, start=1):
            if not text.endswith(b"\n"):
                return
            line = next(left, None)
            result = _result(text)
            if line is None or result is None or not _is_of(line, result):
                asked = f"line {line.number}" if line else "any line"
                raise RequestError(
                    f"{path}, line {number}, is no answer to {asked} of the questions; choose another file for the "
                    "answers, or delete it."
                )
            if result.get("model", model) != model:
                raise RequestError(
                    f"{path}, line {number}, was answered by {result['model']}, not {model}; choose another file for "
                    "the answers."
                )
            yield line, result


def _is_of(line: Line, result: dict[str, Any]) -> bool:
    return {key: value for key, value in result.items() if key not in OWN_KEYS} == line.asked


def _result(text: bytes) -> dict[str, Any] | None:
    try:
        result = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return result if isinstance(result, dict) and ("answer" in result or "error" in result) else None
