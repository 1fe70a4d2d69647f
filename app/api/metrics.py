"""How much of the engine is in use: `/metrics` in the text format of Prometheus, and a line in the log now and then."""

from __future__ import annotations

import dataclasses
import logging
import threading
from collections.abc import Callable, Mapping

from engine import first_answer
from engine.stats import Counters, EngineStats

logger = logging.getLogger(__name__)
LOG_INTERVAL = 60.0  # seconds between two lines, which are written only while something happens


def as_text(stats: Mapping[str, Counters]) -> str:
    """The counters in Prometheus' text format 0.0.4, each model's with its name as label, unless that is empty."""
    lines: list[str] = []
    counters = {one.name: one for kind in stats.values() for one in dataclasses.fields(kind)}
    for counter in counters.values() if stats else dataclasses.fields(EngineStats):
        is_total = counter.metadata["kind"] == "total"
        metric = f"minivlm_{counter.name}{'_total' if is_total else ''}"
        lines += [
            f"# HELP {metric} {counter.metadata['help']}",
            f"# TYPE {metric} {'counter' if is_total else 'gauge'}",
        ]
        for name, one in stats.items():
            if hasattr(one, counter.name):  # an engine here has others than a server elsewhere
                lines.append(f"{metric}{_label(name)} {getattr(one, counter.name)}")
    return "\n".join(lines) + "\n"


def _label(model: str) -> str:
    escaped = model.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'{{model="{escaped}"}}' if model else ""


def as_line(stats: EngineStats) -> str:
    """The counters that tell how full the engine is, on one line."""
    mib = 2**20
    pages = stats.pages_in_use + stats.pages_kept
    return (
        f"{stats.active} answering, {stats.waiting} waiting; keys and values {pages * stats.page_bytes / mib:.0f} of "
        f"{stats.pages_total * stats.page_bytes / mib:.0f} MiB ({stats.pages_in_use} pages in use, {stats.pages_kept} "
        f"kept), {stats.copy_bytes / mib:.0f} MiB more to decode in; images "
        f"{stats.images_held * stats.image_bytes / mib:.1f} of "
        f"{stats.image_slots * stats.image_bytes / mib:.1f} MiB ({stats.images_pinned} in use)"
    )


def log_to_stderr() -> None:
    """Let the lines about use and speed be seen; the rest of the program logs warnings only."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", datefmt="%H:%M:%S"))
    for seen in (logger, first_answer.logger):
        seen.addHandler(handler)
        seen.setLevel(logging.INFO)
        seen.propagate = False


class UsageLog:
    """Writes how full the engine is, at the start and then whenever it was used since the last line."""

    def __init__(self, stats: Callable[[], Mapping[str, Counters]], *, interval: float = LOG_INTERVAL) -> None:
        self._stats = stats
        self._interval = interval
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="usage log", daemon=True)

    def __enter__(self) -> UsageLog:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        before: Mapping[str, Counters] = {}
        while True:
            now = self._stats()
            for name, stats in now.items():
                if isinstance(stats, EngineStats) and stats != before.get(name):
                    logger.info("%s%s", f"{name}: " if name else "", as_line(stats))
            before = now
            if self._stopped.wait(self._interval):
                return
