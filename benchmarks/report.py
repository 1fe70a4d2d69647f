"""A run as JSON and as Markdown, and the table of speed in docs/measurements.md: `python -m benchmarks.report`.

Results lie in benchmarks/results/ as <date>-cpu.json and <date>-gpu.json, with the same as .md beside them.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import platform
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import torch
import transformers

from benchmarks.measure import Figure, SpeedReport
from models.command_line import version

RESULTS = Path("benchmarks/results")
DOCUMENT = Path("docs/measurements.md")
_MARKS = ("<!-- speed:begin -->", "<!-- speed:end -->")


def circumstances(device: torch.device) -> dict[str, Any]:
    """When, with which versions and on what a run takes place."""
    is_cuda = device.type == "cuda"
    return {
        "date": datetime.date.today().isoformat(),
        "versions": {
            "minivlm-chat": version(),
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "transformers": transformers.__version__,
        },
        "device": torch.cuda.get_device_name(device) if is_cuda else _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "load_at_start": round(psutil.getloadavg()[0], 1),
        "clock": "wall time, device idle" if is_cuda else "CPU time of the process",
    }


def _processor() -> str:
    """The processor's name as Linux knows it."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or platform.machine()
    names = re.findall(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return names[0].strip() if names else platform.machine()


def as_values(report: SpeedReport, about: Mapping[str, Any]) -> dict[str, Any]:
    """What goes into the JSON file."""
    return {
        **about,
        "equal": report.equal,
        "figures": [{**dataclasses.asdict(figure), "is_met": figure.is_met} for figure in report.figures],
        "notes": report.notes,
    }


def as_markdown(values: Mapping[str, Any]) -> str:
    """The whole run as a table, with its date, versions and device."""
    versions = ", ".join(f"{name} {number}" for name, number in values["versions"].items())
    lines = [
        f"# Speed, {values['date']}",
        "",
        f"{values['device']}, {values['cores']} cores, {values['threads']} thread(s) used, load "
        f"{values['load_at_start']} at the start; {versions}. Clock: {values['clock']}. Ratios are medians of "
        "the repetitions' ratios.",
        "",
        "| Comparison | Setting | Ratio | Goal | Ours | Original | |",
        "|---|---|--:|--:|--:|--:|---|",
    ]
    for figure in values["figures"]:
        other = "" if figure["original"] is None else f"{figure['original']:.4g}"
        lines.append(
            f"| {figure['name']} | {figure['setting']} | {figure['ratio']:.2f} | {_goal(figure)} "
            f"| {figure['ours']:.4g} | {other} | {figure['unit']} |"
        )
    different = [setting for setting, same in values["equal"].items() if not same]
    equal = f"Greedy answers equal to `generate` (fp32) in {len(values['equal']) - len(different)} settings"
    lines += ["", equal + (f", DIFFERENT in: {'; '.join(different)}." if different else ", different in none.")]
    lines += [f"- {note}" for note in values["notes"]]
    return "\n".join(lines) + "\n"


def save(values: Mapping[str, Any], folder: Path, kind: str) -> Path:
    """Write <date>-<kind>.json and .md; the path of the first."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{values['date']}-{kind}.json"
    path.write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    path.with_suffix(".md").write_text(as_markdown(values), encoding="utf-8")
    return path


def summary(values: Mapping[str, Any]) -> str:
    """The table of the document: a row per comparison and goal, with the range of the ratios over all settings.

    Where one comparison has several goals, its rows also say what their settings have in common.
    """
    rows: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for figure in values["figures"]:
        if figure["goal"] is not None or figure["original"] is not None:
            rows.setdefault((figure["name"], _goal(figure)), []).append(figure)
    names = [name for name, _ in rows]
    lines = ["| Comparison | Ratio | Goal |", "|---|--:|--:|"]
    for (name, goal), figures in rows.items():
        low, high = min(figure["ratio"] for figure in figures), max(figure["ratio"] for figure in figures)
        shown = f"{low:.3g}" if len(figures) == 1 else f"{low:.3g} to {high:.3g}"
        common = f" ({_common([figure['setting'] for figure in figures])})" if names.count(name) > 1 else ""
        lines.append(f"| {name}{common} | {shown} | {goal} |")
    lines += ["", f"{values['date']}, {values['device']}, one thread, load {values['load_at_start']} at the start."]
    return "\n".join(lines)


def write_summary(document: str, folder: Path) -> str:
    """The text of the document with the newest CPU run between its marks."""
    newest = max(folder.glob("*-cpu.json"), default=None)
    body = summary(json.loads(newest.read_text(encoding="utf-8"))) if newest else "Not measured yet."
    begin, end = (re.escape(mark) for mark in _MARKS)
    return re.sub(f"{begin}.*?{end}", lambda _: f"{_MARKS[0]}\n{body}\n{_MARKS[1]}", document, flags=re.DOTALL)


def missed(figures: Sequence[Figure]) -> list[Figure]:
    """The figures below their goals."""
    return [figure for figure in figures if figure.is_met is False]


def _common(settings: Sequence[str]) -> str:
    """The parts, between commas, that all settings have."""
    first, *others = (setting.split(", ") for setting in settings)
    return ", ".join(part for part in first if all(part in other for other in others))


def _goal(figure: Mapping[str, Any]) -> str:
    if figure["goal"] is None:
        return ""
    return f"{'≤' if figure['at_most'] else '≥'} {figure['goal']:g}"


if __name__ == "__main__":
    DOCUMENT.write_text(write_summary(DOCUMENT.read_text(encoding="utf-8"), RESULTS), encoding="utf-8")
