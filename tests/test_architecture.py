"""The rules of the code base that a linter does not know: who imports whom, sizes, one file per family, no secrets.

The way out of a size limit is to say why at the top of the file: "longer than 300 lines because …" or, for functions,
"longer than 60 lines because …".
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from models.config import available_families, load_config

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("app", "models", "training")
MAX_FILE_LINES = 300
MAX_FUNCTION_LINES = 60

# What each package may not import. training.evaluate measures answers as the page gives them, so the engine is open to
# training; the page's "New scene" button draws with training.scenes, imported when it is needed.
FORBIDDEN = {
    "models": ("app", "training", "demo", "gradio"),
    "app": ("training", "demo"),
    "training": ("app", "demo", "gradio"),
}
ALLOWED = {"training": ("app.engine", "app.chat_model"), "app": ("training.scenes",)}
ONLY_INSIDE_FUNCTIONS = ("training.scenes",)


def source_files() -> list[Path]:
    """demo.py and every Python file of the packages, tests and benchmarks."""
    folders = (*PACKAGES, "tests", "benchmarks")
    return [ROOT / "demo.py", *(path for folder in folders for path in sorted((ROOT / folder).rglob("*.py")))]


def program_files() -> list[Path]:
    """The files a user runs: all but tests and benchmarks."""
    return [path for path in source_files() if path.relative_to(ROOT).parts[0] not in ("tests", "benchmarks")]


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


each_source = pytest.mark.parametrize("path", source_files(), ids=relative)
each_program = pytest.mark.parametrize("path", program_files(), ids=relative)


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


def is_under(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


@each_program
def test_imports_point_one_way(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    for name, in_function in imports_of(path):
        allowed = any(is_under(name, module) for module in ALLOWED.get(package, ()))
        if any(is_under(name, module) for module in FORBIDDEN.get(package, ())):
            assert allowed, f"{relative(path)} imports {name}; the order is demo -> app -> models, training -> models"
        if package == "app" and any(is_under(name, module) for module in ONLY_INSIDE_FUNCTIONS):
            assert in_function, f"{relative(path)} imports {name} at the top; import it where it is used"


@pytest.mark.parametrize("family", available_families())
def test_no_family_imports_a_sibling(family: str) -> None:
    siblings = [f"models.families.{other}" for other in available_families() if other != family]
    names = [name for name, _ in imports_of(ROOT / "models" / "families" / f"{family}.py")]
    assert not [name for name in names if any(is_under(name, sibling) for sibling in siblings)]


@each_program
def test_no_branch_on_a_familys_name(path: Path) -> None:
    if path.parent.name == "families":
        return
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Compare):
            names = {getattr(side, "attr", getattr(side, "id", None)) for side in (node.left, *node.comparators)}
            text = any(isinstance(side, ast.Constant) for side in (node.left, *node.comparators))
            assert not ("family" in names and text), (
                f"{relative(path)}:{node.lineno} asks which family it has; let the family say what differs"
            )


@each_source
def test_no_star_imports_and_no_eval(path: Path) -> None:
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.ImportFrom):
            assert node.names[0].name != "*", f"{relative(path)}:{node.lineno} star import"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in ("eval", "exec"), f"{relative(path)}:{node.lineno} {node.func.id}()"


@each_source
def test_files_and_functions_are_short(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    top = (ast.get_docstring(tree_of(path)) or "") + "\n".join(re.findall(r"^#.*", text, re.MULTILINE)[:10])
    num_lines = len(text.splitlines())
    if f"longer than {MAX_FILE_LINES} lines because" not in top:
        assert num_lines <= MAX_FILE_LINES, f"{relative(path)} has {num_lines} lines"
    if f"longer than {MAX_FUNCTION_LINES} lines because" not in top:
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                assert length <= MAX_FUNCTION_LINES, f"{relative(path)}: {node.name} has {length} lines"


def test_the_command_line_stays_small() -> None:
    assert len((ROOT / "demo.py").read_text(encoding="utf-8").splitlines()) < 60


@pytest.mark.parametrize("path", sorted((ROOT / "eval_configs").glob("*.yaml")), ids=relative)
def test_every_config_parses(path: Path) -> None:
    assert load_config(path).family in available_families()


def text_files() -> list[Path]:
    """Everything people read or run that git has or would take."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    )
    names = listed.stdout.splitlines() if listed.returncode == 0 else [relative(path) for path in source_files()]
    suffixes = {".py", ".md", ".yaml", ".yml", ".toml", ".txt", ".css", ".js", ".html", ""}
    paths = [ROOT / name for name in names]
    return [path for path in paths if path.suffix in suffixes and path.is_file() and path != Path(__file__).resolve()]


def test_no_machine_paths_and_no_package_registries() -> None:
    wrong = re.compile(r"/(home|root|work|Users|opt)/\w|pypi\.org|pythonhosted|download\.pytorch|conda\.anaconda|npmjs")
    found = [
        f"{relative(path)}: {match[0]}"
        for path in text_files()
        if (match := wrong.search(path.read_text(encoding="utf-8", errors="replace")))
    ]
    assert not found


def plain_name(requirement: Requirement) -> str:
    """A distribution's name as the package index compares names."""
    return re.sub(r"[-_.]+", "-", requirement.name).lower()


def requirements_in(name: str) -> dict[str, Requirement]:
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    wanted = [Requirement(line) for line in lines if re.match(r"\w", line)]
    return {plain_name(requirement): requirement for requirement in wanted}


def test_every_imported_library_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [r for name in ("ocr", "generate") for r in project["optional-dependencies"][name]]
    runtime = {plain_name(r) for r in map(Requirement, [*project["dependencies"], *extras])}
    train = runtime | {plain_name(r) for r in map(Requirement, project["optional-dependencies"]["train"])}
    providers = packages_distributions()
    own = {*PACKAGES, "demo", *sys.stdlib_module_names}
    for path in program_files():
        declared = train if path.relative_to(ROOT).parts[0] == "training" else runtime
        for library in {name.partition(".")[0] for name, _ in imports_of(path)} - own:
            names = {plain_name(Requirement(name)) for name in providers.get(library, [library])}
            assert names & declared, f"{relative(path)} imports {library}, which pyproject.toml does not list"


def test_pins_lie_in_the_projects_ranges() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    ranges = {plain_name(r): r for r in map(Requirement, project["dependencies"])}
    optional = {
        name: {plain_name(r): r for r in map(Requirement, listed)}
        for name, listed in project["optional-dependencies"].items()
    }
    extras = optional["ocr"] | optional["generate"]
    for listed, file in (
        (ranges, ""),
        (optional["dev"], "-dev"),
        (extras, "-extras"),
        (optional["cluster"], "-cluster"),
    ):
        pins = requirements_in(f"requirements{file}.txt")
        assert listed.keys() == pins.keys()
        for name, pin in pins.items():
            (version,) = pin.specifier
            assert version.operator == "==", f"{pin} is not an exact version"
            assert listed[name].specifier.contains(version.version), f"{pin} is outside of {listed[name]}"


def test_constraints_agree_with_the_pins() -> None:
    constraints = requirements_in("constraints.txt")
    files = ("requirements.txt", "requirements-dev.txt", "requirements-extras.txt")
    for name, pin in (item for file in files for item in requirements_in(file).items()):
        if name != "torch":  # its builds differ in their version's suffix
            assert constraints[name].specifier == pin.specifier
