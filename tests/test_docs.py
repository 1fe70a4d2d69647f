"""What README.md says about files, options and commands is so."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_every_config_in_the_readme_exists() -> None:
    named = set(re.findall(r"eval_configs/([a-z0-9_]+)\.yaml", README))
    assert named
    assert sorted(named - {path.stem for path in (ROOT / "eval_configs").glob("*.yaml")}) == []


def test_the_file_tree_has_every_module() -> None:
    """Except families and their parts: a new family is one file and one YAML, and no work here."""
    tree = README.split("## What is where")[1].split("```")[1]
    named = set(re.findall(r"[\w-]+\.py\b", tree))
    packages = ("app", "models", "training", "benchmarks")
    paths = [path for package in packages for path in (ROOT / package).rglob("*.py")]
    modules = {path.name for path in paths if path.parent.name not in ("families", "parts")}
    modules -= {"__init__.py", "__main__.py"}
    missing, gone = sorted(modules - named), sorted(named - modules - {"demo.py"})
    assert not missing, "the tree in README.md lacks these"
    assert not gone, "the tree in README.md shows these, which are gone"


@pytest.mark.parametrize("document", ["README.md", *(f"docs/{p.name}" for p in sorted((ROOT / "docs").glob("*.md")))])
def test_links_within_the_repository_lead_somewhere(document: str) -> None:
    path = ROOT / document
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8")):
        if not re.match(r"https?:|#", target):
            assert (path.parent / target.partition("#")[0]).exists(), f"{document} links to {target}"


def test_the_options_in_the_readme_are_those_of_the_command_line() -> None:
    usage = subprocess.run([sys.executable, "demo.py", "--help"], cwd=ROOT, capture_output=True, text=True).stdout
    table = README.split("## Using it")[1].split("In the page:")[0]
    shown = set(re.findall(r"--[a-z][\w-]+", table))
    assert shown == set(re.findall(r"--[a-z][\w-]+", usage)) - {"--help", "--version"}


def test_make_has_the_commands_of_the_readme() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in set(re.findall(r"`?\bmake ([a-z][a-z-]+)\b", README)) - {"sure"}:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"README.md names make {target}"
