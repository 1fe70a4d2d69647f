"""`python -m benchmarks.scale_simulation`: what more and more people need, by a simulation of thousands of replicas.

`--measure` first runs one and two replicas of the bundled MiniGPT-v2 on this machine (two minutes; wants Ray, see
docs/scaling.md), keeps what they took in benchmarks/results, and compares it with what the simulation says of them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.report import RESULTS, circumstances
from benchmarks.scale_simulation.growth import door_seconds, table
from benchmarks.scale_simulation.step_fit import fit, measure, predict
from models.command_line import ROOT, OneLineParser

LEVELS = (10, 100, 1_000, 10_000, 100_000, 1_000_000)


def newest() -> Path:
    """The newest measurement that is kept. Raises SystemExit if there is none."""
    found = sorted((ROOT / RESULTS).glob("*-scale.json"))
    if not found:
        raise SystemExit(f"error: {RESULTS} holds no measurement; make one with --measure")
    return found[-1]


def comparison(values: Mapping[str, Any]) -> list[tuple[str, str, float, float]]:
    """For one and two replicas: what is compared, as measured and as simulated."""
    times = fit(values)
    rows: list[tuple[str, str, float, float]] = []
    for name in ("replicas_1", "replicas_2"):
        runs = values[name]
        outcomes = [predict(run, times) for run in runs]
        tokens = sum(answer for run in runs for turns in run["rows"] for _, _, answer in turns)
        seen = [run["replicas"] for run in runs]
        said = [outcome.busy for outcome in outcomes]
        rows.append((name, "all replicas, s", sum(map(sum, seen)), sum(map(sum, said))))
        rows.append((name, "the busiest, s", sum(map(max, seen)), sum(map(max, said))))
        rows.append((name, "tokens in a replica's second", tokens / rows[-2][2], tokens / rows[-2][3]))
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = OneLineParser(prog="python -m benchmarks.scale_simulation", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--measure", action="store_true", help="first measure one and two replicas on this machine")
    parser.add_argument("--people", type=int, nargs="+", default=LEVELS, metavar="N", help="a day, for each row")
    args = parser.parse_args(argv)
    if args.measure:
        about = circumstances(torch.device("cpu")) | {"threads": 1, "clock": "CPU time of the replicas"}
        values = about | measure()
        path = ROOT / RESULTS / f"{about['date']}-scale.json"
        path.write_text(json.dumps(values) + "\n", encoding="utf-8")
        print(f"Kept in {path.relative_to(ROOT)}")
    values = json.loads(newest().read_text(encoding="utf-8"))
    print(f"Measured on {values['date']}, {values['device']}:")
    for name, what, seen, said in comparison(values):
        print(f"  {name}, {what}: {seen:.2f} measured, {said:.2f} simulated ({said / seen - 1:+.0%})")
    print(f"\nThe door takes {1000 * door_seconds(values):.1f} ms for a question.\n")
    print(table(args.people, door_seconds=door_seconds(values)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
