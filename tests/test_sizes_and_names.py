"""How long files, functions and folders may be, what names may mean, and where tests and their helpers are."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.paths import ROOT
from tests.sources import blocks_of, imports_of, page_files, relative, source_files, tree_of

MAX_FILE_LINES = 300
MAX_FUNCTION_LINES = 60
MAX_FOLDER_FILES = 20

# Names that may stand twice, each with why. Modules in folders `families` are named after their family.
STAND_TWICE = {
    "Config": "every family has one, by the contract in models/family.py",
    "minigpt": "what all MiniGPT families share, as formats and as parts",
    "quantization": "a benchmark has the name of what it measures",
}

# Folders of tests that mirror none of the program: each is about a topic of many modules, or holds helpers.
TOPICS = {
    *(
        "app/page/browser",
        "app/page/browser/reading",
        "app/page/browser/stage",
        "app/page/gallery",
        "engine/batching/faults",
        "models/layouts",
        "deploy",
    ),
    *("fuzz", "on_gpu", "pretended_gpu", "ready_python", "sixth_family", "zero_gpu"),
}


@pytest.mark.parametrize("path", source_files(), ids=relative)
def test_files_and_functions_are_short(path: Path) -> None:
    num_lines = len(path.read_text(encoding="utf-8").splitlines())
    assert num_lines <= MAX_FILE_LINES, f"{relative(path)} has {num_lines} lines"
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= MAX_FUNCTION_LINES, f"{relative(path)}: {node.name} has {length} lines"


@pytest.mark.parametrize("path", page_files(), ids=relative)
def test_the_pages_files_are_short(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= MAX_FILE_LINES
    for first, length in blocks_of(lines):
        assert length <= MAX_FUNCTION_LINES, f"{relative(path)}:{first} begins a block of {length} lines"


def test_no_folder_has_many_files() -> None:
    counts = Counter(path.parent for path in (*source_files(), *page_files()) if path.name != "__init__.py")
    assert [f"{relative(folder)} has {n}" for folder, n in counts.items() if n > MAX_FOLDER_FILES] == []


def meanings(path: Path) -> Iterator[tuple[str, str]]:
    """Names that a file gives: its own, its classes', its types'; each with what it means, so that a type that two
    files write alike is one thing."""
    if path.stem not in ("__init__", "__main__") and path.parent.name != "families":
        yield path.stem, relative(path)
    for node in tree_of(path).body:
        if isinstance(node, ast.ClassDef):
            yield node.name, relative(path)
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name, value = node.targets[0].id, ast.unparse(node.value)
            if name.lstrip("_")[0].isupper() and not name.isupper() and not value.startswith("TypeVar"):
                yield name, value


def test_a_name_means_one_thing() -> None:
    """In the whole program: whoever has met a class, a type or a module need not ask which."""
    found: dict[str, set[str]] = {}
    for path in source_files():
        if not relative(path).startswith("tests/"):
            for name, meaning in meanings(path):
                found.setdefault(name, set()).add(meaning)
    twice = {name: sorted(places) for name, places in found.items() if len(places) > 1}
    assert {name: places for name, places in twice.items() if name not in STAND_TWICE} == {}
    assert STAND_TWICE.keys() <= twice.keys(), "a name stands once only: take it off the list"


def test_folders_of_tests_are_those_of_the_program() -> None:
    folders = {path.parent.relative_to(ROOT / "tests").as_posix() for path in (ROOT / "tests").rglob("*.py")} - {"."}
    assert {folder for folder in folders if not list((ROOT / folder).glob("*.py"))} == TOPICS


def test_helpers_are_in_helper_files() -> None:
    """Whoever changes a test need not know who else lives on it."""
    taken = [
        f"{relative(path)} takes {name}"
        for path in source_files()
        for name, _ in imports_of(path)
        if name.startswith("tests.") and any(part.startswith("test_") for part in name.split("."))
    ]
    assert taken == []
