"""What the documents say about files, options and commands is so."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from dataclasses import fields
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

from models.config import available_families, family_module
from models.conversation import Sampling
from tests.paths import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
MOST_README_LINES = 180
PROGRAM = ("app", "engine", "models", "training", "benchmarks")
FOLDERS = (*PROGRAM, "checkpoints", "docs", "eval_configs", "tests")
# Options of other people's programs that the documents name.
FOREIGN_OPTIONS = {
    *("--extra-index-url", "--logdir", "--multi_gpu", "--nnodes", "--nproc-per-node", "--num_processes"),
    *("--num_machines", "--machine_rank", "--main_process_ip", "--main_process_port", "--rdzv-backend", "--standalone"),
    *("--max-restarts", "--base-url", "--extra-body", "--key"),
    *("--profile", "--repo-type", "--rdzv-endpoint", "--data", "--model", "--model_args", "--tasks"),
}


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


DOCUMENTS = sorted(
    map(relative, (ROOT / "README.md", ROOT / "checkpoints" / "README.md", *(ROOT / "docs").rglob("*.md")))
)
each_document = pytest.mark.parametrize("document", DOCUMENTS)


def text_of(document: str) -> str:
    return (ROOT / document).read_text(encoding="utf-8")


def links_of(document: str) -> list[tuple[str, str]]:
    """The links within the repository: a path from its root, which is the document's own for "#part", and the part."""
    found = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text_of(document)):
        if not re.match(r"https?:", target):
            path, _, part = target.partition("#")
            place = (ROOT / document).parent / path if path else ROOT / document
            found.append((relative(place.resolve()), part))
    return found


def parts_of(text: str) -> set[str]:
    """What a link can name after "#": GitHub makes it from a heading."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= MOST_README_LINES, "move what only some readers need to docs/"


def test_the_readme_names_every_config() -> None:
    """And no others."""
    named = re.findall(r"eval_configs/([a-z0-9_]+)\.yaml", README.split("## Checkpoints")[1].split("\n## ")[0])
    assert sorted(named) == sorted(path.stem for path in (ROOT / "eval_configs").glob("*.yaml"))


def test_the_file_tree_has_every_folder() -> None:
    """Of the program, and only those that exist."""
    tree = README.split("## What is where")[1].split("```")[1]
    named, parents = set(), [""]
    for line in filter(None, tree.splitlines()):
        if found := re.match(r"([│├└─\s]*)([\w-]+)/", line):
            depth = len(found[1]) // 4
            parents[depth + 1 :] = [f"{parents[depth]}{found[2]}/"]
            named.add(parents[-1].rstrip("/"))
    modules = (path for package in PROGRAM for path in (ROOT / package).rglob("*.py"))
    folders = {path.parent.relative_to(ROOT).as_posix() for path in modules}
    assert folders - named == set(), "the tree in README.md lacks these"
    assert sorted(name for name in named if not (ROOT / name).is_dir()) == []


@each_document
def test_links_within_the_repository_lead_somewhere(document: str) -> None:
    for path, part in links_of(document):
        assert (ROOT / path).exists(), f"{document} links to {path}"
        if part:
            assert part in parts_of(text_of(path)), f"{document} links to {path}#{part}"


@pytest.mark.parametrize("document", [name for name in DOCUMENTS if name != "README.md"])
def test_every_document_is_linked_from_another(document: str) -> None:
    linked = {path for other in DOCUMENTS if other != document for path, _ in links_of(other)}
    assert document in linked


@each_document
def test_files_and_folders_that_are_named_exist(document: str) -> None:
    """Those written as code with a path from the root; NAME and the like stand for many."""
    for name in re.findall(r"`([\w.-]+/[\w./-]*)`", text_of(document)):
        if name.partition("/")[0] in FOLDERS and not re.search(r"[A-Z]{4,}", name.removesuffix("README.md")):
            assert (ROOT / name).exists(), f"{document} names {name}"


@pytest.mark.parametrize("document", [name for name in DOCUMENTS if re.search("decisions|architecture|where", name)])
def test_names_in_the_code_exist(document: str) -> None:
    """Constants, classes and functions, so that what is said to hold can be looked up."""
    for name in set(re.findall(r"`([A-Za-z_][\w.]*)`", text_of(document))):
        for part in filter(None, name.split(".")):
            assert part in words_in_the_code(), f"{document} names {name}"


@cache
def words_in_the_code() -> set[str]:
    folders = [ROOT / name for name in (*PROGRAM, "tests")]
    sources = [path for folder in folders for path in folder.rglob("*.py") if path != Path(__file__).resolve()]
    sources += [ROOT / "demo.py", ROOT / "pyproject.toml"]
    return {word for path in sources for word in re.findall(r"[A-Za-z_]\w*", path.read_text(encoding="utf-8"))}


@each_document
def test_commands_that_are_named_exist(document: str) -> None:
    """`python -m MODULE`, `make TARGET`, and every option of them."""
    text = text_of(document)
    for module in set(re.findall(r"(?:python|torchrun|accelerate)\b[^`\n]* -m ([a-z_.]+)", text)) - {"venv"}:
        assert find_spec(module) is not None, f"{document} names python -m {module}"
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in set(re.findall(r"(?:^|`)make ([a-z][a-z-]+)\b", text, re.MULTILINE)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"{document} names make {target}"
    for option in sorted(set(re.findall(r"(?<![\w-])--[a-z][\w-]+", text)) - FOREIGN_OPTIONS):
        assert option in own_options(), f"{document} names {option}"


@cache
def own_options() -> set[str]:
    """Every option that a command of this project declares."""
    sources = [
        ROOT / "tests" / "conftest.py",
        *(path for package in PROGRAM for path in (ROOT / package).rglob("*.py")),
    ]
    return {option for path in sources for option in re.findall(r'"(--[a-z][\w-]+)"', path.read_text(encoding="utf-8"))}


@pytest.mark.parametrize("family", available_families())
def test_every_key_of_a_yaml_is_described(family: str) -> None:
    described = set(re.findall(r"`(\w+)`", text_of("docs/configuration.md")))
    keys = {field.name for field in fields(family_module(family, source=ROOT).Config)} - {"source"}
    keys |= {field.name for field in fields(Sampling)}
    assert sorted(keys - described) == []


def test_the_options_are_those_of_the_command_line() -> None:
    usage = subprocess.run([sys.executable, "demo.py", "--help"], cwd=ROOT, capture_output=True, text=True).stdout
    table = text_of("docs/using.md").split("## The command line")[1].split("\n## ")[0]
    shown = set(re.findall(r"--[a-z][\w-]+", table))
    assert shown == set(re.findall(r"--[a-z][\w-]+", usage)) - {"--help", "--version"}


def test_what_the_samples_import_is_there() -> None:
    imported = 0
    for sample in re.findall(r"^```python\n(.*?)^```", text_of("docs/using.md"), re.DOTALL | re.MULTILINE):
        for node in ast.walk(ast.parse(sample)):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] in PROGRAM:
                module = import_module(node.module)
                assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []
                imported += 1
    assert imported
