"""`python -m benchmarks.attacks`: attacks on a server as anybody starts it, and what somebody else notices of them.

The server runs on the first processor and the attacker on the second, with the least priority: on one machine the
attacker's own work would take from the server what over a network it could not. With --any-core all share all
processors; what the attack itself takes of one is in the column "own". Attacker and bystander have addresses of their
own; with --same-address they share one, as behind one router.

Exit status 1 if the bystander got a wrong answer or none, if a counter of /metrics was not back at zero, or if the
conversations took more than twice their time. Linux only: addresses of 127.0.0.0/8 and choosing processors.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from benchmarks.attacks.bystander import Bystander
from benchmarks.attacks.runner import ATTACKS, AttackRunner, line_of
from benchmarks.attacks.target import Target
from benchmarks.soak_http import PageConfig, Visitor, served
from models.command_line import ROOT, OneLineParser, place

ATTACKER, BYSTANDER = "127.0.0.66", "127.0.0.2"


@contextmanager
def on_core(core: int | None) -> Iterator[None]:
    """What is started in the block runs there."""
    before = os.sched_getaffinity(0)
    if core is not None:
        os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the attacks and print what was seen."""
    parser = OneLineParser(prog="python -m benchmarks.attacks", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="attacks (all): " + ", ".join(ATTACKS))
    parser.add_argument("--seconds", type=float, default=12, help="of those that have no end (%(default)s)")
    parser.add_argument("--same-address", action="store_true", help="the bystander is behind the attacker's address")
    parser.add_argument("--any-core", action="store_true", help="let attacker and server share all processors")
    parser.add_argument("--output", type=place, help="also write the reports there, as JSON")
    args = parser.parse_args(argv)
    if unknown := [name for name in args.names if name not in ATTACKS]:
        parser.error(f"there is no attack {unknown[0]}; there are {', '.join(ATTACKS)}.")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the server ends, too
    cores = [None, None] if args.any_core else [*sorted(os.sched_getaffinity(0)), None][:2]
    config = ROOT / "eval_configs" / "tiny_minigpt_v2.yaml"
    reports = []
    with tempfile.TemporaryDirectory() as folder, on_core(cores[0]):
        log = Path(folder) / "log"
        with served(config, log=log) as (url, pid):
            if cores[1] is not None:
                os.sched_setaffinity(0, {cores[1]})
            page = PageConfig.read(url)
            target = Target(url, ATTACKER, args.seconds, page)
            address = ATTACKER if args.same_address else BYSTANDER
            bystander = Bystander(Visitor(url, page, b"", address=address))
            for _ in range(2):
                bystander.visit()
            print(f"{'attack':27}  quiet attacked   worst  ratio visits peak MiB   after   log   own", flush=True)
            runner = AttackRunner(target, bystander, pid, log, cores[1])
            for name in args.names or ATTACKS:
                reports.append(runner.run(name))
                print(line_of(reports[-1]), flush=True)
                for wrong in (*reports[-1].wrong[:3], *map(str, [reports[-1].left] if reports[-1].left else [])):
                    print(f"    {wrong}", flush=True)
    if args.output:
        args.output.write_text(json.dumps([asdict(report) for report in reports], indent=1) + "\n", encoding="utf-8")
    return int(not all(report.is_held for report in reports))


if __name__ == "__main__":
    sys.exit(main())
