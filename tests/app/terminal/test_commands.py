"""What Tab offers."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.terminal.commands import HELP, Completer, help_lines
from tests.fakes import TASKS

COMPLETER = Completer(lambda: TASKS, lambda: ["minigpt4", "minigpt_v2", "tiny_minigpt_v2"])


def offers(line: str) -> list[str]:
    """For the last word of a line with the cursor at its end, words ending at spaces."""
    return COMPLETER.offers(line, line.rfind(" ") + 1)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("/i", ["/image "]),
        ("/", [f"{name} " for name in HELP]),
        ("[ref", ["[refer] "]),
        ("/task re", ["refer"]),
        ("/task G", ["grounding"]),
        ("/model mini", ["minigpt4", "minigpt_v2"]),
        ("/new x", []),
        ("what is", []),
        ("", []),
        ("/nothing a", []),
    ],
)
def test_a_word_is_completed(line: str, expected: list[str]) -> None:
    assert offers(line) == expected


def test_files_are_completed_also_with_spaces_in_their_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a cat.png", "a cow.png", "b.png", ".hidden"):
        (tmp_path / name).touch()
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)
    assert offers("/image a") == ["a cat.png", "a cow.png"]
    assert offers("/image a c") == ["cat.png", "cow.png"]
    assert offers("/image fol") == ["folder/"]
    assert offers("/image ") == ["a cat.png", "a cow.png", "b.png", "folder/"]
    assert offers(f"/image {tmp_path}/b") == [f"{tmp_path}/b.png"]
    assert offers("/save .h") == [".hidden"]
    assert offers("/image gone/x") == []


def test_help_names_every_command() -> None:
    assert all(any(line.startswith(name) for line in help_lines()) for name in HELP)
