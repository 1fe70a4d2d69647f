"""deploy/compose.yaml as a user has it: alone on a CPU, or with compose.cuda.yaml over it."""

from __future__ import annotations

import re
from typing import Any

import yaml

from tests.paths import ROOT

DEPLOY = ROOT / "deploy"


def read(name: str) -> Any:
    """A YAML file of the folder."""
    return yaml.safe_load((DEPLOY / name).read_text(encoding="utf-8"))


def merged(below: Any, above: Any) -> Any:
    """As `docker compose -f … -f …` merges: maps by their keys, all else is replaced."""
    if isinstance(below, dict) and isinstance(above, dict):
        both = {key: merged(below[key], above[key]) for key in below.keys() & above.keys()}
        return below | above | both
    return above


COMPOSE: dict[str, Any] = read("compose.yaml")
WITH_CUDA: dict[str, Any] = merged(COMPOSE, read("compose.cuda.yaml"))


def command_of(service: dict[str, Any]) -> list[str]:
    """Its words where no variable is set."""
    return [re.sub(r"\$\{\w+:-(.*)\}", r"\1", word) for word in service["command"]]
