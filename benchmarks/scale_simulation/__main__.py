"""`python -m benchmarks.scale_simulation`: what more and more people need, by a simulation of thousands of replicas.

`--measure` first runs one and two replicas of the bundled MiniGPT-v2 on this machine (three minutes; wants Ray, see
docs/scaling.md), keeps what they took in benchmarks/results, and compares it with what the simulation says of them.
`--keep` keeps what was simulated there, too, and writes all tables into docs/scaling.md.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from benchmarks.report import RESULTS, circumstances
from benchmarks.scale_simulation.growth import grown
from benchmarks.scale_simulation.step_fit import measure
from benchmarks.scale_simulation.tables import blocks, written
from models.command_line import ROOT, OneLineParser

LEVELS = (10, 100, 1_000, 10_000, 100_000, 1_000_000)
DOCUMENT = ROOT / "docs" / "scaling.md"


def newest(kind: str) -> dict[str, Any]:
    """The newest results of a kind ("scale", "growth") that are kept. Raises SystemExit if there are none."""
    found = sorted((ROOT / RESULTS).glob(f"*-{kind}.json"))
    if not found:
        raise SystemExit(f"error: {RESULTS} holds no results called {kind}; --measure and --keep make them")
    values: dict[str, Any] = json.loads(found[-1].read_text(encoding="utf-8"))
    return values


def keep(kind: str, values: dict[str, Any]) -> None:
    """Write a report."""
    path = ROOT / RESULTS / f"{values['date']}-{kind}.json"
    path.write_text(json.dumps(values) + "\n", encoding="utf-8")
    print(f"Kept in {path.relative_to(ROOT)}")


def write_document(document: Path) -> None:
    """Put all tables, made anew from what is kept, where they stand in the document."""
    text = document.read_text(encoding="utf-8")
    document.write_text(written(text, blocks(newest("scale"), newest("growth"))), encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = OneLineParser(prog="python -m benchmarks.scale_simulation", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--measure", action="store_true", help="first measure one and two replicas on this machine")
    parser.add_argument("--people", type=int, nargs="*", default=LEVELS, metavar="N", help="a day, for each row")
    parser.add_argument("--keep", action="store_true", help="keep what was simulated, and write it into the document")
    args = parser.parse_args(argv)
    if args.measure:
        about = circumstances(torch.device("cpu")) | {"threads": 1, "clock": "CPU time of the replicas"}
        keep("scale", about | measure())
    growth = {"date": datetime.now(UTC).date().isoformat(), "rows": grown(args.people)} if args.people else None
    if growth is not None and args.keep:
        keep("growth", growth)
    if args.keep:
        write_document(DOCUMENT)
    for name, text in blocks(newest("scale"), growth or newest("growth")).items():
        print(f"{name}\n{text}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
