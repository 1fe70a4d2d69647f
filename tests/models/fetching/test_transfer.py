"""One file from a server that cuts, changes, refuses and lies."""

from __future__ import annotations

import json
import os
import random
import re
import threading
import time
from dataclasses import replace
from email.utils import formatdate
from pathlib import Path

import pytest
from huggingface_hub.errors import HfHubHTTPError, HTTPError

from models.errors import DownloadFailed
from models.fetching.table import HubFile
from models.fetching.transfer import TRIES, download, part_size
from models.fetching.web import explain, look_up
from tests.models.fetching.local_hub import Hub, sha256

DATA = random.Random(0).randbytes(40_000)
NAME = "someone/model/weights.pth"
FILE = HubFile("someone/model", "weights.pth")


@pytest.fixture
def target(tmp_path: Path, hub: Hub) -> Path:
    """Where the file is to be; the hub has it."""
    hub.files[NAME] = DATA
    return tmp_path / "folder" / "weights.pth"


def only_file_in(folder: Path) -> str:
    (name,) = os.listdir(folder)
    return name


def test_a_file_comes_whole_and_leaves_nothing_beside_it(hub: Hub, target: Path) -> None:
    come: list[int] = []
    assert download(look_up(FILE), target, on_bytes=come.append) == sha256(DATA)
    assert target.read_bytes() == DATA
    assert sum(come) == len(DATA)
    assert only_file_in(target.parent) == "weights.pth"


def test_cuts_within_one_start_cost_nothing(hub: Hub, target: Path) -> None:
    hub.cuts[NAME] = [10_000, 15_000, 0, 3_000]
    come: list[int] = []
    download(look_up(FILE), target, on_bytes=come.append)
    assert target.read_bytes() == DATA
    assert sum(come) == len(DATA)
    assert hub.downloads(NAME) == ["", "bytes=10000-", "bytes=25000-", "bytes=25000-", "bytes=28000-"]


def test_a_server_that_sends_nothing_is_left_after_some_tries(hub: Hub, target: Path) -> None:
    hub.cuts[NAME] = [10_000] + [0] * 100
    with pytest.raises(HTTPError):
        download(look_up(FILE), target)
    assert len(hub.downloads(NAME)) == 1 + TRIES
    assert part_size(target) == 10_000
    assert not target.exists()
    hub.cuts.clear()
    download(look_up(FILE), target)
    assert hub.downloads(NAME)[-1] == "bytes=10000-"
    assert target.read_bytes() == DATA


def test_a_file_that_changed_in_between_begins_anew(hub: Hub, target: Path) -> None:
    hub.cuts[NAME] = [10_000] + [0] * TRIES
    with pytest.raises(HTTPError):
        download(look_up(FILE), target)
    hub.cuts.clear()
    hub.files[NAME] = new = DATA[::-1]
    come: list[int] = []
    assert download(look_up(FILE), target, on_bytes=come.append) == sha256(new)
    assert target.read_bytes() == new
    assert sum(come) == len(new)


def test_other_bytes_at_the_same_address_are_found_by_the_etag(hub: Hub, target: Path) -> None:
    """The announcement is the same, but the server behind it has another file now."""
    remote = look_up(FILE)
    hub.cuts[NAME] = [10_000] + [0] * TRIES
    hub.sent[NAME], hub.etags[NAME] = DATA[::-1], '"old"'
    with pytest.raises(HTTPError):
        download(remote, target)
    hub.cuts.clear()
    hub.sent.clear()
    hub.etags[NAME] = '"new"'
    assert download(remote, target) == sha256(DATA)
    assert hub.downloads(NAME)[TRIES + 1 :] == ["bytes=10000-"], "If-Range brings the whole file in the same answer"


def test_a_server_without_ranges_begins_anew(hub: Hub, target: Path) -> None:
    hub.knows_ranges = False
    hub.cuts[NAME] = [10_000, 20_000]
    come: list[int] = []
    download(look_up(FILE), target, on_bytes=come.append)
    assert target.read_bytes() == DATA
    assert sum(come) == len(DATA)


def test_a_damaged_part_is_found_and_fetched_again(hub: Hub, target: Path) -> None:
    hub.cuts[NAME] = [10_000] + [0] * TRIES
    with pytest.raises(HTTPError):
        download(look_up(FILE), target)
    hub.cuts.clear()
    part = target.with_name("weights.pth.part")
    part.write_bytes(bytes(10_000))
    come: list[int] = []
    assert download(look_up(FILE), target, on_bytes=come.append) == sha256(DATA)
    assert target.read_bytes() == DATA
    assert sum(come) == len(DATA)


@pytest.mark.parametrize("note", ["", "{}", "[1]", '{"url": 1, "size": 2, "sha256": 3, "more": 4}'])
def test_a_part_without_a_usable_note_begins_anew(note: str, hub: Hub, target: Path) -> None:
    target.parent.mkdir()
    target.with_name("weights.pth.part").write_bytes(b"x" * 10)
    target.with_name("weights.pth.part.json").write_text(note)
    download(look_up(FILE), target)
    assert target.read_bytes() == DATA
    assert hub.downloads(NAME) == [""]


def test_a_part_that_is_longer_than_the_file_begins_anew(hub: Hub, target: Path) -> None:
    hub.cuts[NAME] = [10_000] + [0] * TRIES
    with pytest.raises(HTTPError):
        download(look_up(FILE), target)
    hub.cuts.clear()
    with target.with_name("weights.pth.part").open("ab") as part:
        part.write(bytes(100_000))
    download(look_up(FILE), target)  # the server answers 416
    assert target.read_bytes() == DATA


def test_other_bytes_than_their_own_server_announces_are_refused(hub: Hub, target: Path) -> None:
    hub.sent[NAME] = DATA[::-1]
    come: list[int] = []
    said = f"has sha256 {sha256(DATA[::-1])}, but its server announces {sha256(DATA)}: the file is damaged"
    with pytest.raises(DownloadFailed, match=said):
        download(look_up(FILE), target, on_bytes=come.append)
    assert hub.downloads(NAME) == ["", ""], "once more from the start, then no further"
    assert os.listdir(target.parent) == []
    assert sum(come) == 0
    hub.sent.clear()
    assert download(look_up(FILE), target) == sha256(DATA)


def test_bytes_that_are_merely_not_expected_are_kept(hub: Hub, target: Path) -> None:
    """Of a server that announces no hash: it may be another upload."""
    remote = replace(look_up(FILE), sha256=None, expected=sha256(DATA[::-1]))
    assert download(remote, target) == sha256(DATA)
    assert target.read_bytes() == DATA
    assert hub.downloads(NAME) == ["", ""]


def test_a_web_page_is_called_one(hub: Hub, target: Path) -> None:
    hub.sent[NAME] = b"<!DOCTYPE html><title>Sign in</title>".ljust(len(DATA))
    with pytest.raises(DownloadFailed, match="sends a web page instead; is there a login in between"):
        download(look_up(FILE), target)


def test_wrong_bytes_once_are_replaced(hub: Hub, target: Path) -> None:
    hub.sent[NAME] = DATA[::-1]
    seen: list[int] = []

    def mend(count: int) -> None:
        seen.append(count)
        if count < 0:
            hub.sent.clear()

    assert download(look_up(FILE), target, on_bytes=mend) == sha256(DATA)
    assert sum(seen) == len(DATA)


def test_more_bytes_than_announced_are_refused(hub: Hub, target: Path) -> None:
    hub.sent[NAME] = DATA + b"more"
    with pytest.raises(DownloadFailed, match="sends 40,004 bytes, after it had said 40,000"):
        download(look_up(FILE), target)


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503])
def test_a_server_that_is_busy_is_asked_again(status: int, hub: Hub, target: Path) -> None:
    hub.statuses[NAME] = [status, status]
    download(look_up(FILE), target)
    assert target.read_bytes() == DATA


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        ({"Retry-After": "86400"}, "86,400"),
        ({"Retry-After": formatdate(time.time() + 86400, usegmt=True)}, r"8\d,\d\d\d"),
        ({"RateLimit": '"resolvers";r=0;t=86400'}, "86,400"),
    ],
)
def test_who_asks_for_a_long_wait_is_left_and_quoted(
    headers: dict[str, str], said: str, hub: Hub, target: Path
) -> None:
    hub.statuses[NAME], hub.waits = [429] * 10, headers
    with pytest.raises(HfHubHTTPError) as raised:
        download(look_up(FILE), target)
    assert len(hub.downloads(NAME)) == 1
    line = explain(raised.value, what="weights.pth")
    assert re.search(f"too many requests; it asks to wait {said} seconds; start again then, what is here is kept", line)


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_refusal_is_not_repeated(status: int, hub: Hub, target: Path) -> None:
    hub.statuses[NAME] = [status] * 10
    with pytest.raises(HfHubHTTPError):
        download(look_up(FILE), target)
    assert len(hub.downloads(NAME)) == 1


def test_two_at_once_fetch_once(hub: Hub, target: Path) -> None:
    hub.pause = 0.002
    remote, found = look_up(FILE), []
    threads = [threading.Thread(target=lambda: found.append(download(remote, target))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [sha256(DATA)] * 3
    assert hub.downloads(NAME) == [""]
    assert target.read_bytes() == DATA


def test_the_note_beside_a_part_says_what_it_is(hub: Hub, target: Path) -> None:
    hub.cuts[NAME] = [10_000] + [0] * TRIES
    with pytest.raises(HTTPError):
        download(look_up(FILE), target)
    note = json.loads(target.with_name("weights.pth.part.json").read_text())
    assert (note["size"], note["sha256"]) == (len(DATA), sha256(DATA))
    assert note["etag"] == f'"{sha256(DATA)[:12]}"'


def test_a_token_goes_to_the_hub_alone(hub: Hub, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    from models.fetching.table import WebFile

    hub.files["elsewhere.pth"] = DATA
    look_up(WebFile(f"{hub.address}/web/elsewhere.pth"))
    download(look_up(FILE), target)
    sent = dict(hub.tokens)
    assert sent["/someone/model/resolve/main/weights.pth"] == "Bearer hf_secret"
    assert sent["/web/elsewhere.pth"] is None
