"""The folder of uploads: its quota, whose files are whose, and what is cut off."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from app.limits.policy import Limits
from app.limits.refusal import Refused
from app.limits.uploads import UploadFolder


def stored(folder: Path, name: str, size: int = 10, age: float = 0) -> str:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size)
    os.utime(path, (time.time() - age,) * 2)
    return str(path)


def test_what_is_received_counts_until_it_is_measured(tmp_path: Path) -> None:
    uploads = UploadFolder(tmp_path, Limits(disk_bytes=100, disk_reserve=0))
    uploads.count(60)
    with pytest.raises(Refused) as refused:
        uploads.check_room(50)
    assert refused.value.status == 507
    with pytest.raises(Refused):
        uploads.count(50)
    stored(tmp_path, "hash/a.png", 20)
    uploads.tidy()
    assert uploads.used == 20


def test_a_full_disk_takes_no_uploads(tmp_path: Path) -> None:
    with pytest.raises(Refused):
        UploadFolder(tmp_path, Limits(disk_reserve=2**60)).check_room(1)


def test_a_shared_file_goes_with_its_last_owner(tmp_path: Path) -> None:
    uploads = UploadFolder(tmp_path, Limits())
    shared, own = stored(tmp_path, "h1/a.png"), stored(tmp_path, "h2/b.png")
    uploads.own("one", [shared, own, "/etc/passwd", None])
    uploads.own("two", [shared])
    uploads.forget("one")
    assert Path(shared).exists()
    assert not Path(own).exists()
    assert not Path(own).parent.exists()
    uploads.forget("two")
    assert not Path(shared).exists()
    assert uploads.visits() == set()


def test_what_was_cut_off_is_deleted_and_what_runs_is_not(tmp_path: Path) -> None:
    uploads = UploadFolder(tmp_path, Limits())
    uploads._begun -= 5000
    cut, recent, whole = (
        Path(stored(tmp_path, "tmpcut", age=1000)),
        Path(stored(tmp_path, "tmpnew")),
        Path(stored(tmp_path, "hash/a.png", age=1000)),
    )
    with uploads.running():
        uploads._running = {key: time.time() - 2000 for key in uploads._running}
        uploads.tidy()
        assert cut.exists()
    uploads.tidy()
    assert not cut.exists()
    assert recent.exists()
    assert whole.exists()


def test_where_little_room_is_left_nobodys_files_go(tmp_path: Path) -> None:
    uploads = UploadFolder(tmp_path, Limits(disk_bytes=100))
    old, owned = stored(tmp_path, "h1/a.png", 60, age=5000), stored(tmp_path, "h2/b.png", 39, age=9000)
    uploads.own("visit", [owned])
    uploads.tidy()
    assert not Path(old).exists()
    assert Path(owned).exists()
