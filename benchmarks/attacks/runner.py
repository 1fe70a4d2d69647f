"""One attack after the other on one server, with a bystander beside each, and what was seen of it."""

from __future__ import annotations

import math
import multiprocessing
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Event
from pathlib import Path

import psutil

from benchmarks.attacks import with_connections, with_features, with_files, with_pictures, with_requests, with_sessions
from benchmarks.attacks.bystander import Bystander, watched_memory
from benchmarks.attacks.target import Target
from benchmarks.soak_http import left_behind, resident_mib

Attack = Callable[[Target], object]

ATTACKS: dict[str, Attack] = {
    attack.__name__: attack
    for room in (with_pictures, with_sessions, with_requests, with_connections, with_features, with_files)
    for attack in room.ATTACKS
}
ALLOWED = 2.0  # times the bystander's quiet time
QUIET_SECONDS = 5.0
RANK = 0.9  # of the conversations are counted: a single one may have met something else on a busy machine
PREPARING = 120.0  # seconds at most until an attack begins


@dataclass
class AttackReport:
    """What was seen of one attack. Times are seconds of a conversation (9 of 10 were shorter), memory is MiB."""

    name: str
    quiet: float
    attacked: float
    worst: float
    visits: int
    peak: float
    after: float
    log_lines: int
    wrong: list[str]
    left: dict[str, float]
    outcome: str
    attackers: float = 0.0  # of one processor, what the attack itself took

    @property
    def is_held(self) -> bool:
        """Whether the server did what it promises."""
        return not self.wrong and not self.left and self.attacked <= ALLOWED * self.quiet


def attack(name: str, target: Target, begun: Event, outcome: Connection, core: int | None) -> None:
    """In a process of its own: the attack, and what came of it."""
    if core is not None:
        os.sched_setaffinity(0, {core})
        os.nice(19)
    outcome.send(str(ATTACKS[name](replace(target, begin=begun.set)))[:300])


class AttackRunner:
    """Runs attacks on one server, whose process is `pid` and whose log is in a file."""

    def __init__(self, target: Target, bystander: Bystander, pid: int, log: Path, core: int | None) -> None:
        self._target, self._bystander = target, bystander
        self._pid, self._log, self._core = pid, log, core

    def run(self, name: str) -> AttackReport:
        """One attack. The bystander talks before it, and all the time during it."""
        bystander, lines = self._bystander, self._log_lines()
        bystander.wrong.clear()
        end = time.monotonic() + QUIET_SECONDS
        quiet = ranked(bystander.visits_while(lambda: time.monotonic() < end))
        context = multiprocessing.get_context("spawn")
        begun = context.Event()
        here, there = context.Pipe(duplex=False)
        attacker = context.Process(target=attack, args=(name, self._target, begun, there, self._core), daemon=True)
        attacker.start()
        there.close()
        with watched_memory(self._pid) as peak:
            begun.wait(PREPARING)
            since, used = time.monotonic(), [processor_seconds(attacker)]

            def goes_on() -> bool:
                used.append(processor_seconds(attacker))
                return attacker.is_alive() and time.monotonic() < since + 4 * self._target.seconds

            seconds = bystander.visits_while(goes_on)
            highest, lasted = peak(), time.monotonic() - since
        try:
            outcome = here.recv() if here.poll(1) else "still going on when it was ended"
        except EOFError:
            outcome = "the attack itself failed"
        attacker.kill()
        attacker.join()
        left = left_behind(self._target.url)
        return AttackReport(
            name, quiet, ranked(seconds), max(seconds), len(seconds), highest, resident_mib(self._pid),
            self._log_lines() - lines, list(bystander.wrong), left, outcome,
            (max(used) - used[0]) / lasted,
        )  # fmt: skip

    def _log_lines(self) -> int:
        return self._log.read_bytes().count(b"\n")


def processor_seconds(process: BaseProcess) -> float:
    """That a child has used; 0 once it has ended."""
    try:
        times = psutil.Process(process.pid).cpu_times()
    except psutil.Error:
        return 0.0
    return float(times.user + times.system)


def ranked(seconds: list[float]) -> float:
    """The time that RANK of them do not exceed."""
    return sorted(seconds)[math.ceil(RANK * len(seconds)) - 1]


def line_of(report: AttackReport) -> str:
    """A row of the table."""
    ratio = report.attacked / report.quiet
    verdict = "held" if report.is_held else "FELL"
    return (
        f"{report.name:27} {report.quiet:6.2f} {report.attacked:8.2f} {report.worst:7.2f} {ratio:6.2f} "
        f"{report.visits:6d} {report.peak:7.0f} {report.after:7.0f} {report.log_lines:6d} {report.attackers:5.2f}  "
        f"{verdict}  {report.outcome[:80]}"
    )
