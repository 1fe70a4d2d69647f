"""`--download` and `fetch`: a configuration's plan as text, then the download."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from models.config import load_config
from models.fetching.fetch import fetch
from models.fetching.plan import make_plan


def download_for(
    path: Path, overrides: Sequence[str] = (), *, dry_run: bool = False, report: Callable[[str], None] = print
) -> None:
    """Report the plan of a YAML, then fetch what is missing. Raises MiniVLMError with one line."""
    plan = make_plan(load_config(path, overrides))
    for line in plan.lines(with_problems=dry_run):
        report(line)
    if not dry_run:
        fetch(plan, report=report)
