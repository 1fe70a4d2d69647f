"""Pictures as short-lived files."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.page.question.scratch import KEEP, ScratchFolder
from tests.app.helpers import scene


def test_a_scratch_file_that_another_visitor_deletes_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    scratch = ScratchFolder()
    folder = scratch.save(scene()).parent
    monkeypatch.setattr(Path, "glob", lambda *_: iter([folder / "gone.png"]))
    assert scratch.save(scene()).is_file()


def test_scratch_files_expire(monkeypatch: pytest.MonkeyPatch) -> None:
    scratch = ScratchFolder()
    first = scratch.save(scene())
    assert scratch.save(scene()).parent == first.parent
    assert first.is_file()
    now = first.stat().st_mtime
    monkeypatch.setattr("time.time", lambda: now + KEEP + 1)
    kept = scratch.save(scene())
    assert not first.exists()
    assert kept.exists()
