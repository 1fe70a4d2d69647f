"""`python -m models verify`, as a test runs it."""

from __future__ import annotations

from pathlib import Path

import pytest

from models.__main__ import main
from tests.paths import ROOT

TINY = ROOT / "checkpoints"
STAGE4 = "TinyGPT-V_for_Stage4.pth"


def verify(path: Path, capsys: pytest.CaptureFixture[str], option: str | None = None) -> tuple[int, str, str]:
    """Status, what was reported, and the error's line; `option` is a key of the YAML that is overridden."""
    status = main(["verify", str(path), *(["--options", option] if option else [])])
    output = capsys.readouterr()
    assert output.err.count("\n") <= 1, output.err
    return status, output.out, output.err
