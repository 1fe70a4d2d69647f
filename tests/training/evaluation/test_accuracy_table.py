"""The table of accuracy in docs/measurements.md says what the reports say."""

from __future__ import annotations

import json
from pathlib import Path

from tests.paths import ROOT
from training.evaluation.accuracy_table import DOCUMENT, load_reports, table, write_table


def test_the_document_shows_the_reports_as_they_are() -> None:
    text = (ROOT / DOCUMENT).read_text(encoding="utf-8")
    assert "<!-- accuracy:begin -->" in text
    assert load_reports(ROOT / "benchmarks" / "results")
    assert write_table(text, ROOT / "benchmarks" / "results") == text


def test_a_cell_has_one_figure_per_seed(tmp_path: Path) -> None:
    for seed, value in ((1, 0.5), (0, 0.25)):
        report = {"model": "Tiny", "seed": seed, "scenes": 3, "figures": {"identify": value}}
        (tmp_path / f"day-tiny-accuracy-seed{seed}.json").write_text(json.dumps(report))
    lines = table(load_reports(tmp_path)).splitlines()
    assert "| Identify | 0.250 / 0.500 |" in lines
    assert "| Count |  |" in lines
