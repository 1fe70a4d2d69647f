"""A disk that takes no more is one line, whoever writes; nothing half-written is left, and the next try works."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from models import disk
from models.disk import DiskFull, delete_scratch, scratch_folder, written_whole
from tests.small_disk import small_disk

LARGE = torch.arange(50_000.0)
Writer = Callable[[Path], object]


WRITERS: dict[str, Writer] = {
    "text": lambda path: path.write_text("x" * 10_000),
    "torch": lambda path: torch.save({"model": LARGE}, path),
    "safetensors": lambda path: save_file({"a": LARGE}, path),
    "picture": lambda path: Image.effect_noise((200, 200), 90).save(path, "PNG"),
}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_a_file_is_whole_or_as_it_was(write: Writer, tmp_path: Path) -> None:
    path = tmp_path / "folder" / "file"
    for before in (None, b"as it was"):
        with small_disk(), pytest.raises(DiskFull, match="the disk is full") as caught, written_whole(path) as partial:
            write(partial)
        assert "\n" not in str(caught.value)
        assert (path.read_bytes() if path.is_file() else None) == before
        assert list(path.parent.iterdir()) == ([] if before is None else [path])
        path.write_bytes(b"as it was")
    with written_whole(path) as partial:
        write(partial)
    assert path.stat().st_size > 4096
    assert list(path.parent.iterdir()) == [path]


def test_other_errors_stay_what_they_are(tmp_path: Path) -> None:
    def break_down(partial: Path) -> None:
        partial.write_text("half")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), written_whole(tmp_path / "file") as partial:
        break_down(partial)
    assert list(tmp_path.iterdir()) == []


def test_a_thread_that_still_writes_keeps_no_scratch_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A conversation whose page has gone was put into a file while the program ended, and stayed on the disk."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(disk, "_scratch", [])
    monkeypatch.setattr(disk, "_is_ending", False)
    folder, remove = scratch_folder("chat-"), os.rmdir

    def write_first(*args: Any, **more: Any) -> None:
        with suppress(OSError):
            (folder / "late").touch()
        remove(*args, **more)

    monkeypatch.setattr(os, "rmdir", write_first)
    delete_scratch()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(OSError, match="the program ends"):
        scratch_folder("chat-")
    assert list(tmp_path.iterdir()) == []
