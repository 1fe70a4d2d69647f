"""Pictures as short-lived files."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from app.page.long_work import LongWork
from app.page.question.scratch import KEEP, ScratchFolder
from tests.app.helpers import scene


def test_a_scratch_file_that_another_visitor_deletes_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    scratch = ScratchFolder()
    folder = scratch.save(scene).parent
    monkeypatch.setattr(Path, "glob", lambda *_: iter([folder / "gone.png"]))
    assert scratch.save(scene).is_file()


def test_scratch_files_expire(monkeypatch: pytest.MonkeyPatch) -> None:
    scratch = ScratchFolder()
    first = scratch.save(scene)
    assert scratch.save(scene).parent == first.parent
    assert first.is_file()
    now = first.stat().st_mtime
    monkeypatch.setattr("time.time", lambda: now + KEEP + 1)
    kept = scratch.save(scene)
    assert not first.exists()
    assert kept.exists()


def test_scratch_files_have_a_budget_and_the_newest_stays() -> None:
    """Parts of large pictures, cut out again and again, filled the disk with 28 MB each."""
    size = ScratchFolder().save(scene).stat().st_size
    scratch = ScratchFolder(max_bytes=2 * size)
    files = [scratch.save(scene) for _ in range(4)]
    assert [file.is_file() for file in files] == [False, False, True, True]
    tiny = ScratchFolder(max_bytes=1)
    assert tiny.save(scene).is_file()


def test_they_lie_where_gradio_copies_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    assert ScratchFolder().save(scene).is_relative_to(tmp_path)


def test_large_pictures_are_written_one_at_a_time_and_not_compressed() -> None:
    running: list[int] = []
    most = 0

    def large() -> Image.Image:
        nonlocal most
        running.append(1)
        most = max(most, len(running))
        time.sleep(0.01)  # in which another would begin
        running.pop()
        return Image.new("RGB", (2000, 1001))

    scratch = ScratchFolder()
    with ThreadPoolExecutor(4) as threads:
        files = list(threads.map(lambda _: scratch.save(large), range(4)))
    assert most == 1
    assert files[0].stat().st_size > 6_000_000


def test_after_long_work_others_have_the_processor_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a pause a thread that never waits takes from the server's own several times its share."""
    rests: list[tuple[float, Callable[[], None]]] = []
    timer = lambda seconds, do: SimpleNamespace(start=lambda: rests.append((seconds, do)))  # noqa: E731
    monkeypatch.setattr("app.page.long_work.threading", SimpleNamespace(Timer=timer))
    clock = SimpleNamespace(thread_time=iter([0.0, 2.0, 2.0, 2.0005]).__next__)
    monkeypatch.setattr("app.page.long_work.time", clock)
    work = LongWork()
    with work.turn():
        pass
    ((seconds, end),) = rests
    assert (seconds, len(work.turns._held)) == (6.0, 1)
    end()
    with work.turn():
        pass
    assert (len(rests), len(work.turns._held)) == (1, 0)
