"""How good the bundled models are, as a table in docs/measurements.md: `python -m training.evaluation.accuracy_table`.

It is made from the reports of `training.evaluate` in benchmarks/results/, named *-accuracy-seed<N>.json.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path("benchmarks/results")
DOCUMENT = Path("docs/measurements.md")
_MARKS = ("<!-- accuracy:begin -->", "<!-- accuracy:end -->")

ROWS = (
    ("Refer, accuracy at IoU 0.5", "refer@0.5"),
    ("Refer, accuracy at IoU 0.75", "refer@0.75"),
    ("Identify", "identify"),
    ("Grounding, F1 at IoU 0.5", "grounding_f1@0.5"),
    ("Detection, F1 at IoU 0.5", "detection_f1@0.5"),
    ("Absent things: nothing claimed", "absent_unclaimed"),
    ("One absent thing: nothing claimed", "absent_one_unclaimed"),
    ("Caption, F1 of objects", "caption_f1"),
    ("Count", "count"),
    ("Colour", "colour"),
    ("Shape", "shape"),
    ("Relation", "relation"),
    ("Existence", "existence"),
    ("Reading", "reading"),
    ("VQA, mean of the six above", "vqa_mean"),
    ("Markup well-formed", "well_formed"),
    ("Held-out combinations: loss against the rest", "held_out_gap"),
)

AccuracyReport = Mapping[str, Any]


def load_reports(folder: Path) -> dict[str, list[AccuracyReport]]:
    """The reports by model, each model's in the order of their seeds."""
    reports: dict[str, list[AccuracyReport]] = {}
    for path in sorted(folder.glob("*-accuracy-seed*.json")):
        report = json.loads(path.read_text(encoding="utf-8"))
        reports.setdefault(report["model"], []).append(report)
    return {name: sorted(found, key=lambda report: report["seed"]) for name, found in sorted(reports.items())}


def table(reports: Mapping[str, Sequence[AccuracyReport]]) -> str:
    """Markdown: a column for each model, in each cell one figure per seed."""
    lines = ["| Task | " + " | ".join(reports) + " |", "|---|" + "--:|" * len(reports)]
    for label, key in ROWS:
        cells = []
        for found in reports.values():
            figures = [report["figures"].get(key) for report in found]
            cells.append(" / ".join(f"{figure:.3f}" for figure in figures if figure is not None))
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def write_table(document: str, folder: Path) -> str:
    """The text of the document with the table of today's reports between its marks."""
    begin, end = (re.escape(mark) for mark in _MARKS)
    body = f"{_MARKS[0]}\n{table(load_reports(folder))}\n{_MARKS[1]}"
    return re.sub(f"{begin}.*?{end}", lambda _: body, document, flags=re.DOTALL)


if __name__ == "__main__":
    DOCUMENT.write_text(write_table(DOCUMENT.read_text(encoding="utf-8"), RESULTS), encoding="utf-8")
