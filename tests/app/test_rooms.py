"""What the rooms of the app load, directly or through others: the conversation needs neither a page nor a network."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.paths import ROOT


def loaded_by(folder: str) -> set[str]:
    """Every module there is once all modules of a folder are imported, in a process of its own."""
    paths = (path.relative_to(ROOT).with_suffix("") for path in (ROOT / folder).glob("*.py"))
    names = sorted(".".join(path.parts) for path in paths if path.name != "__init__")
    code = f"import importlib, sys\nfor name in {names}:\n    importlib.import_module(name)\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    ("folder", "without"),
    [
        ("app/chat", ("gradio", "torch", "transformers", "app.page", "app.api", "app.extras")),
        ("app/extras", ("gradio", "torch", "transformers", "app.page", "app.api")),
        ("app/remote", ("gradio", "torch", "transformers", "app.page", "app.api", "app.extras")),
        ("app/page", ("torch", "transformers")),
        ("app/api", ("app.page", "app.extras")),
    ],
)
def test_a_room_gets_by_without(folder: str, without: tuple[str, ...]) -> None:
    loaded = loaded_by(folder)
    assert folder.replace("/", ".") in loaded
    assert loaded.isdisjoint(without)
