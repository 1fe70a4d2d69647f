"""Where things are, for tests at any depth."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]  # of the project
GOLDENS = ROOT / "tests" / "goldens"  # cases recorded from the originals
DATA = ROOT / "tests" / "data"  # other recorded values
