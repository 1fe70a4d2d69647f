"""Every module imports, with the installed requirements and nothing else set up; the cluster's where Ray is."""

from __future__ import annotations

import importlib

import pytest

from tests.paths import ROOT


def module_names() -> list[str]:
    """`demo` and every module of the four packages, by dotted name."""
    files = [
        path for package in ("app", "engine", "models", "training") for path in sorted((ROOT / package).rglob("*.py"))
    ]
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in files]
    return ["demo", *(name.removesuffix(".__init__") for name in names if not name.endswith("__main__"))]


@pytest.mark.parametrize("name", module_names())
def test_module_imports(name: str) -> None:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if name.startswith("app.cluster.") and error.name is not None and error.name.partition(".")[0] == "ray":
            pytest.skip("Ray is not installed: pip install -r requirements-cluster.txt")
        raise
