"""The folder of uploads: its quota, whose files are whose, and what is cut off."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from app.limits.policy import Limits
from app.limits.refusal import Refused
from app.limits.upload_forms import PROGRESSES, UploadProgress
from app.limits.uploads import TOO_MUCH, UploadFolder
from tests.app.limits.visitors import ServeLimited, Visitor
from tests.waiting import in_a_loop


def stored(folder: Path, name: str, size: int = 10, age: float = 0) -> str:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size)
    os.utime(path, (time.time() - age,) * 2)
    return str(path)


def test_what_is_received_counts_until_it_is_measured(tmp_path: Path) -> None:
    uploads = UploadFolder(tmp_path, Limits(disk_bytes=100, disk_reserve=0))
    with uploads.running("one") as first, uploads.running("two") as second:
        uploads.count(first, 40)
        uploads.count(second, 30)
    with pytest.raises(Refused) as refused:
        uploads.check_room(40, "three")
    assert refused.value.status == 507
    with pytest.raises(Refused), uploads.running("three") as third:
        uploads.count(third, 40)
    stored(tmp_path, "hash/a.png", 20)
    uploads.tidy()
    assert uploads.used == 20


def test_nobodys_uploads_keep_others_from_bringing_a_few(tmp_path: Path) -> None:
    """One address could fill the folder, and nobody else attached a picture any more."""
    uploads = UploadFolder(tmp_path, Limits(disk_bytes=1000 << 18, disk_reserve=0))
    kib = 1 << 10
    with uploads.running("one") as running:
        uploads.count(running, 400 << 18)
        with pytest.raises(Refused) as refused:
            uploads.check_room(101 << 18, "one")
        assert (refused.value.status, refused.value.reason) == (429, TOO_MUCH)
        with pytest.raises(Refused):
            uploads.count(running, 101 << 18)
    for client in ("two", "three"):  # what came stays counted until it is measured, and these are at the end of it
        with uploads.running(client) as running:
            uploads.count(running, 299 << 18)
    with pytest.raises(Refused) as refused:
        uploads.check_room(1001 * kib, "four")
    assert refused.value.status == 507
    uploads.check_room(900 * kib, "four")
    with uploads.running("four") as running:
        uploads.count(running, 900 * kib)
        with pytest.raises(Refused):
            uploads.count(running, 200 * kib)


def test_empty_files_count(tmp_path: Path) -> None:
    uploads = UploadFolder(tmp_path, Limits(disk_bytes=1000 << 18, disk_reserve=0))
    uploads.own("visit", [stored(tmp_path, f"h{number}/a.png", 0) for number in range(9)], "one")
    assert uploads.used == 9000
    uploads.tidy()
    assert uploads.used == 9000
    with pytest.raises(Refused):
        uploads.check_room((500 << 18) - 8999, "one")
    uploads.forget("visit")
    uploads.tidy()
    uploads.check_room((500 << 18) - 8999, "one")


def test_a_full_disk_takes_no_uploads(tmp_path: Path) -> None:
    with pytest.raises(Refused):
        UploadFolder(tmp_path, Limits(disk_reserve=2**60)).check_room(1, "one")


def test_a_shared_file_goes_with_its_last_owner(tmp_path: Path) -> None:
    uploads = UploadFolder(tmp_path, Limits())
    shared, own = stored(tmp_path, "h1/a.png"), stored(tmp_path, "h2/b.png")
    uploads.own("one", [shared, own, "/etc/passwd", None], "client")
    uploads.own("two", [shared], "client")
    uploads.forget("one")
    assert Path(shared).exists()
    assert not Path(own).exists()
    assert not Path(own).parent.exists()
    uploads.forget("two")
    assert not Path(shared).exists()
    assert uploads.visits() == set()


def test_a_visit_that_ends_takes_nothing_from_one_that_uploads_the_same(tmp_path: Path) -> None:
    uploads, file = UploadFolder(tmp_path, Limits()), tmp_path / "content" / "cat.png"
    file.parent.mkdir()
    file.write_bytes(b"cat")
    uploads.own("one", [str(file)], "client")
    with uploads.running("client"):
        uploads.forget("one")
        with uploads.running("client"):  # it began later: not waited for
            pass
        uploads.forget("one")
        assert file.is_file()
        uploads.own("two", [str(file)], "client")
    assert file.is_file()
    with uploads.running("client"):
        uploads.forget("two")
        assert file.is_file()
    assert not file.exists()
    assert uploads.visits() == set()


def test_what_was_cut_off_is_deleted_and_what_runs_is_not(tmp_path: Path) -> None:
    """Whatever the system's clock says, which may be set back meanwhile."""
    now = [1000.0]
    others = Path(stored(tmp_path, "tmpother", age=1000))  # another program's, or that of an earlier start
    uploads = UploadFolder(tmp_path, Limits(), clock=lambda: now[0])
    cut, whole = Path(stored(tmp_path, "tmpcut", age=-4000)), Path(stored(tmp_path, "hash/a.png", age=1000))
    uploads.tidy()
    now[0] += 61
    recent = Path(stored(tmp_path, "tmpnew", age=5000))
    with uploads.running("client"):
        uploads.tidy()
        assert not cut.exists()
        now[0] += 61
        uploads.tidy()
        assert recent.exists()  # it may be the one that is running
    stored(tmp_path, "tmpnew", size=11)
    uploads.tidy()
    now[0] += 61
    uploads.tidy()
    assert not recent.exists()
    assert whole.exists()
    assert others.exists()


def test_where_little_room_is_left_nobodys_files_go(tmp_path: Path) -> None:
    now = [0.0]
    uploads = UploadFolder(tmp_path, Limits(disk_bytes=100), clock=lambda: now[0])
    old, owned = stored(tmp_path, "h1/a.png", 60, age=-5000), stored(tmp_path, "h2/b.png", 39, age=9000)
    uploads.own("visit", [owned], "client")
    uploads.tidy()
    assert Path(old).exists()
    now[0] = 601
    uploads.tidy()
    assert not Path(old).exists()
    assert Path(owned).exists()


def part(disposition: str, content: bytes = b"x") -> bytes:
    """One part of a form whose boundary is REAL."""
    return f"--REAL\r\nContent-Disposition: form-data; {disposition}\r\n\r\n".encode() + content + b"\r\n"


FILE = 'name="files"; filename="a.png"'
END = b"--REAL--\r\n"
REFUSED_FORMS = {
    "four files": (413, part(FILE) * 4 + END),
    "a field, which would stay in memory": (400, part(FILE) + part('name="files"', b"x" * 100_000) + END),
    "a field of another name": (400, part('name="x"') + END),
    "a file of another name": (400, part('name="x"; filename="a.png"') + END),
    "no form": (400, b"no form at all"),
}
UNREADABLE = (
    (f"multipart/form-data; boundary={'b' * 300}", part(FILE)),
    ("multipart/form-data; boundary=REAL; charset=undefined", part(FILE)),
    ("multipart/form-data; boundary=REAL; charset=unicode_escape", part('name="files"; filename="\\\\ud800.png"')),
)
KINDS = (
    ["multipart/form-data; boundary=REAL"],
    ["multipart/form-data; xboundary=AAA; boundary=REAL"],
    ['multipart/form-data; x="; boundary=AAA"; boundary=REAL'],
    ["multipart/form-data; boundary=REAL", "multipart/form-data; boundary=AAA"],
)


def test_a_form_is_of_few_files_and_nothing_else(serve_limited: ServeLimited, caplog: pytest.LogCaptureFixture) -> None:
    """However it names its boundary; what came of a refused one is gone at once, and no library says a line of it."""
    visitor = Visitor(serve_limited(Limits(upload_files=3)))
    folder = serve_limited.limited.layer.uploads.folder  # type: ignore[attr-defined]

    def send(form: bytes, kind: list[str], **parameters: str) -> httpx.Response:
        headers = [("content-type", one) for one in kind]
        return visitor.client.post("/gradio_api/upload", content=form, headers=headers, params=parameters)

    for kind in KINDS:
        answers = {name: send(form, kind, upload_id="mine").status_code for name, (_, form) in REFUSED_FORMS.items()}
        assert answers == {name: status for name, (status, _) in REFUSED_FORMS.items()}
    assert [send(form + END, [kind]).status_code for kind, form in UNREADABLE] == [400] * len(UNREADABLE)
    assert send(part(FILE) + END[:4], KINDS[0]).status_code == 200  # a browser that was closed
    assert list(folder.rglob("*.*")) == list(folder.glob("tmp*")) == []
    assert [one for one in caplog.record_tuples if one[1] >= logging.WARNING and one[0] != "app.limits.refusal"] == []
    assert len(send(part(FILE) * 3 + END, KINDS[0]).json()) == 3


def test_of_uploads_that_nobody_asks_about_little_is_kept() -> None:
    progress = UploadProgress()

    async def ask_and_send() -> None:
        for number in range(2 * PROGRESSES):
            with suppress(TimeoutError):
                await asyncio.wait_for(progress.is_tracked(f"none {number}"), 0)
            progress.append(f"sent {number}", "a.png", b"x")
            progress.set_done(f"sent {number}")
        assert await progress.is_tracked(f"sent {number}")
        assert progress.is_done(f"sent {number}")

    in_a_loop(ask_and_send())
    assert len(progress._statuses) == PROGRESSES
    assert len(progress._signals) == PROGRESSES
