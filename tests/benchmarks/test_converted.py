"""The comparison of a converted folder with its source, with a bundled model."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from benchmarks import converted
from tests.paths import ROOT


def test_a_row_for_each_kind_and_nothing_stays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copyfile(ROOT / "eval_configs" / "tiny_moe_llava.yaml", tmp_path / "model.yaml")
    loaded: list[str] = []

    def in_this_process(family: str, path: Path, kind: str) -> dict[str, float]:
        loaded.append(path.name)
        found = converted.measure(path, kind)
        assert 0 < found["loaded"] < found["read"]
        return found

    monkeypatch.setattr(converted, "measured", in_this_process)
    converted.compare("moe_llava", tmp_path, "4bit", repeats=1)
    (row,) = capsys.readouterr().out.splitlines()
    assert re.match(r"  4bit +0\.0\d GiB +\d+ s( +\d+\.\d+ → +\d+\.\d+ s \( *\d+\.\dx\)){4}$", row)
    assert loaded == ["model.yaml", "converted"]
    assert [path.name for path in tmp_path.iterdir()] == ["model.yaml"]
