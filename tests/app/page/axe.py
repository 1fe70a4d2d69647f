"""axe-core, which finds what people with a screen reader, a keyboard or weak sight would stumble over."""

from __future__ import annotations

from typing import Any

from playwright.sync_api import Page

from tests.paths import ROOT

AXE = ROOT / "tests" / "assets" / "axe.min.js"
SERIOUS = ("serious", "critical")


def serious_findings(page: Page) -> list[str]:
    """What is wrong and where, one line each; findings of lesser weight are left out."""
    page.evaluate(AXE.read_text(encoding="utf-8"))
    found: list[dict[str, Any]] = page.evaluate("axe.run(document, { resultTypes: ['violations'] })")["violations"]
    return [
        f"{finding['id']}: {node['target']} {node['html'][:150]} {node['failureSummary'][:200]}"
        for finding in found
        if finding["impact"] in SERIOUS
        for node in finding["nodes"]
    ]
