"""What is imported is declared, and what is declared is pinned, everywhere alike."""

from __future__ import annotations

import re
import sys
import tomllib
from importlib.metadata import packages_distributions

from packaging.requirements import Requirement

from tests.paths import ROOT
from tests.sources import PACKAGES, imports_of, program_files, relative


def plain_name(requirement: Requirement) -> str:
    """A distribution's name as the package index compares names."""
    return re.sub(r"[-_.]+", "-", requirement.name).lower()


def requirements_in(name: str) -> dict[str, Requirement]:
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    wanted = [Requirement(line) for line in lines if re.match(r"\w", line)]
    return {plain_name(requirement): requirement for requirement in wanted}


def test_every_imported_library_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    optional = ("ocr", "generate", "math", "heic", "cluster", "zero")
    extras = [requirement for name in optional for requirement in project["optional-dependencies"][name]]
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
    extras = optional["ocr"] | optional["generate"] | optional["math"] | optional["heic"]
    for listed, file in (
        (ranges, ""),
        (optional["dev"], "-dev"),
        (extras, "-extras"),
        (optional["cluster"], "-cluster"),
        (optional["zero"], "-zero"),
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
