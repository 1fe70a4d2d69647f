"""One table of the results that lie beside each other, to paste into a paper and to compute with."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from models.disk import written_whole
from training.data.annotations import DataError

Result = Mapping[str, Any]

_FIELDS = ("model", "config", "task", "annotations", "questions", "limit", "figures")
_LEFT_OUT = frozenset({"precision", "recall", "without_box"})  # of the Markdown; the JSON has every figure


def write_result(path: Path, result: Result | Sequence[Result]) -> None:
    """A JSON file that is there whole or not."""
    _write(path, json.dumps(result, indent=2) + "\n")


def write_tables(folder: Path) -> Path:
    """`folder`/benchmarks.md and benchmarks.json from every `folder`/*/results.json; returns the Markdown file.

    Raises DataError for a file that is no result.
    """
    results = []
    for path in sorted(folder.glob("*/results.json")):
        try:
            result = json.loads(path.read_text(encoding="utf-8"))
            results.append({key: result[key] for key in _FIELDS})
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise DataError(f"{path} is no result of training.evaluate; delete it and evaluate again.") from error
    write_result(folder / "benchmarks.json", results)
    path = folder / "benchmarks.md"
    _write(path, markdown(results))
    return path


def markdown(results: Sequence[Result]) -> str:
    """A row for each checkpoint, a column for each figure of a task and annotation file, all in percent.

    Where several checkpoints have a name, their config follows it; where only the first questions were asked, how many.
    """
    columns: list[str] = []
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for result in results:
        row = rows.setdefault((result["model"], result["config"]), {})
        for name, value in result["figures"].items():
            if name in _LEFT_OUT:
                continue
            column = f"{result['task']}: {result['annotations']}, {name}"
            columns += [] if column in columns else [column]
            row[column] = f"{100 * value:.2f}" + (f" (first {result['questions']})" if result["limit"] else "")
    names = [model for model, _ in rows]
    lines = ["| Model | " + " | ".join(columns) + " |", "|---|" + "--:|" * len(columns)]
    for (model, config), row in rows.items():
        label = model if names.count(model) == 1 else f"{model} ({config})"
        lines.append(f"| {label} | " + " | ".join(row.get(column, "") for column in columns) + " |")
    return "\n".join(lines) + "\n"


def _write(path: Path, text: str) -> None:
    with written_whole(path) as partial:
        partial.write_text(text, encoding="utf-8")
