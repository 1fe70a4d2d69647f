"""The files of the code base, for tests that read them: which there are, as trees, and what each imports."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from tests.paths import ROOT

PACKAGES = ("app", "engine", "models", "training")


def source_files() -> list[Path]:
    """demo.py and every Python file of the packages, tests, benchmarks and what others take."""
    folders = (*PACKAGES, "tests", "benchmarks", "contrib")
    return [ROOT / "demo.py", *(path for folder in folders for path in sorted((ROOT / folder).rglob("*.py")))]


def program_files() -> list[Path]:
    """The files a user runs."""
    others = ("tests", "benchmarks", "contrib")
    return [path for path in source_files() if path.relative_to(ROOT).parts[0] not in others]


def page_files() -> list[Path]:
    """The page's scripts and style sheets."""
    return sorted(path for kind in ("js", "css") for path in (ROOT / "app" / "page" / "assets").rglob(f"*.{kind}"))


def blocks_of(lines: list[str]) -> Iterator[tuple[int, int]]:
    """Of a script or style sheet, the first line of every indented block and how many lines it has.

    It is told by the indentation, as the files are written; a script's outermost function is the file itself.
    """
    for first, line in enumerate(lines, start=1):
        indent = line[: len(line) - len(line.lstrip())]
        if indent and line.endswith("{"):
            yield first, next(n for n, other in enumerate(lines[first:], start=2) if other.startswith(f"{indent}}}"))


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports_of(path: Path) -> Iterator[tuple[str, bool]]:
    """Absolute dotted names of everything a file imports, each with whether that happens inside a function."""
    functions = [node for node in ast.walk(tree_of(path)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    inside = {id(node) for function in functions for node in ast.walk(function)}
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, id(node) in inside) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join((*parents, *filter(None, [node.module])))
            yield from ((f"{base}.{alias.name}", id(node) in inside) for alias in node.names)
