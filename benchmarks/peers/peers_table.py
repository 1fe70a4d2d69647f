"""`python -m benchmarks.peers.peers_table` writes the peers' table in docs/measurements.md from the newest reports."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.peers.environments import OURS, PEERS
from benchmarks.report import DOCUMENT, RESULTS

_MARKS = ("<!-- peers:begin -->", "<!-- peers:end -->")
_NAMES = {"fp32": "32 bits", "16bit": "16 bits", "8bit": "8 bits", "4bit": "4 bits"}


def as_markdown(values: Mapping[str, Any]) -> str:
    """A report as a table, with the machine's limits below it."""
    names = [OURS.name, *(peer.name for peer in PEERS)]
    lines = [
        f"| {values['size'].replace('M', ' M').replace('B', ' B')} | {' | '.join(names)} | ours / best | goal |",
        f"|---|{'--:|' * (len(names) + 2)}",
    ]
    for cell in values["cells"]:
        found = cell["medians"]
        shown = [f"{found[name]:{'.0f' if found[name] >= 100 else '.3g'}}" if name in found else "–" for name in names]
        ratio = "" if cell["ratio"] is None else f"{cell['ratio']:.2f}"
        goal = "" if cell["goal"] is None else f"≥ {cell['goal']:g}"
        unit = "" if cell["unit"] == "tokens/s" else f", {cell['unit']}"
        lines.append(
            f"| {_NAMES[cell['precision']]}, {cell['measure']}{unit} | {' | '.join(shown)} | {ratio} | {goal} |"
        )
    limits = values["limits"]
    lines += [
        "",
        f"{values['date']}, {values['device']}, one thread, load {values['load_at_start']} at the start. It reads "
        f"{limits['read_gb_s']:.1f} GB/s and multiplies {limits['fp32_gflop_s']:.0f} GFLOP/s in fp32, "
        f"{limits['bf16_gflop_s']:.0f} in bf16, {limits['int8_gop_s']:.0f} GOP/s in int8. {_shares(values)}",
    ]
    return "\n".join(lines)


def _shares(values: Mapping[str, Any]) -> str:
    """How much of the read bandwidth one chat takes."""
    shares = [
        f"{_NAMES[cell['precision']]} {cell['share_of_bandwidth'][OURS.name]:.0%}"
        for cell in values["cells"]
        if "share_of_bandwidth" in cell
    ]
    return f"Of that, one chat of ours reads: {', '.join(shares)}."


def write_tables(document: str, folder: Path) -> str:
    """The text of the document with the newest report of each size between its marks."""
    newest: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.glob("*-peers-*.json")):
        values = json.loads(path.read_text(encoding="utf-8"))
        newest[values["size"]] = values
    body = "\n\n".join(as_markdown(values) for values in newest.values())
    begin, end = (re.escape(mark) for mark in _MARKS)
    return re.sub(f"{begin}.*?{end}", lambda _: f"{_MARKS[0]}\n{body}\n{_MARKS[1]}", document, flags=re.DOTALL)


if __name__ == "__main__":
    DOCUMENT.write_text(write_tables(DOCUMENT.read_text(encoding="utf-8"), RESULTS), encoding="utf-8")
