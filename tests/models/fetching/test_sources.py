"""A file that two addresses have: one of them refuses, breaks off or sends something else while the file comes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from models.config import load_config
from models.fetching import plan
from models.fetching.fetch import fetch
from models.fetching.plan import make_plan
from models.fetching.transfer import TRIES
from tests.models.fetching.local_hub import Hub, sha256
from tests.models.fetching.three_files import EVA, run

FIRST, SECOND = "eva.pth", "someone/mirror/eva.pth"
PAGE = b"<!DOCTYPE html><title>Sign in</title>"


@pytest.fixture
def mirrored(config: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The YAML of three files, one of which a second address has as well; asked in the order of the table."""
    hub.files[SECOND] = EVA
    monkeypatch.setattr(plan, "uses_mirror", lambda: False)
    return config


@pytest.mark.parametrize("status", [401, 403, 404, 500])
def test_the_next_address_serves_where_one_refuses(
    status: int, mirrored: Path, hub: Hub, checkpoints_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.statuses[FIRST] = [status] * TRIES
    code, out, _ = run(["fetch", str(mirrored)], capsys)
    assert code == 0
    assert (checkpoints_dir / "eva.pth").read_bytes() == EVA
    assert f"eva.pth came from {hub.address}/someone/mirror/resolve/main/eva.pth. Before that: eva.pth" in out
    assert sorted(path.name for path in checkpoints_dir.rglob("eva*")) == ["eva.pth"]


def test_what_has_come_from_one_address_goes_on_at_the_next(mirrored: Path, hub: Hub, checkpoints_dir: Path) -> None:
    hub.cuts[FIRST] = [10_000] + [0] * TRIES
    come: list[int] = []
    planned = make_plan(load_config(mirrored))
    total = sum(item.missing_bytes for item in planned.items)
    fetch(planned, on_bytes=come.append)
    assert (checkpoints_dir / "eva.pth").read_bytes() == EVA
    assert hub.downloads(SECOND) == ["bytes=10000-"]
    assert sum(come) == total


def test_of_two_that_refuse_both_are_told(
    mirrored: Path, hub: Hub, checkpoints_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.statuses[FIRST], hub.statuses[SECOND] = [404] * TRIES, [500] * TRIES
    code, _, error = run(["fetch", str(mirrored)], capsys)
    assert code == 2
    assert "eva.pth is not at its address any more" in error
    assert "eva.pth: the server has an error (500)" in error
    assert not list(checkpoints_dir.rglob("*.lock"))
    assert (checkpoints_dir / "v2" / "stage.pth").is_file()


def test_the_hash_decides_which_one_is_kept(
    mirrored: Path, hub: Hub, checkpoints_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.sent[FIRST] = EVA[::-1]
    code, out, _ = run(["fetch", str(mirrored)], capsys)
    assert code == 0
    assert (checkpoints_dir / "eva.pth").read_bytes() == EVA
    assert f"{hub.address}/web/eva.pth sends other bytes than it should (sha256 {sha256(EVA[::-1])})." in out
    assert "was expected" not in out


def test_what_is_true_of_both_is_said_once(mirrored: Path, hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    hub.statuses[FIRST], hub.statuses[SECOND] = [500] * TRIES, [500] * TRIES
    _, _, error = run(["fetch", str(mirrored)], capsys)
    assert error.count("eva.pth: the server has an error (500)") == 1


@pytest.mark.parametrize("second", ["refuses", "has other bytes as well"])
def test_other_bytes_are_kept_and_told_where_nobody_has_the_right_ones(
    second: str, mirrored: Path, hub: Hub, checkpoints_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.sent[FIRST] = EVA[::-1]
    hub.sent[SECOND] = EVA[1:] + b"!"
    hub.statuses[SECOND] = [404] * TRIES * (second == "refuses")
    code, out, _ = run(["fetch", str(mirrored)], capsys)
    assert code == 0
    assert (checkpoints_dir / "eva.pth").read_bytes() == EVA[::-1]
    assert f"its sha256 is {sha256(EVA[::-1])}, but {sha256(EVA)} was expected" in out
    assert sorted(os.listdir(checkpoints_dir)) == [".hashes.json", "eva.pth", "v2"]


def test_a_web_page_is_never_kept_as_weights(
    config: Path, hub: Hub, checkpoints_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The network's login answers every request, and the other address is not there."""
    hub.files[FIRST] = PAGE
    hub.files["someone/mirror/eva.pth"] = PAGE * 50  # large enough for the hub to publish its sha256
    code, _, error = run(["fetch", str(config)], capsys)
    assert code == 2
    assert f"eva.pth: {hub.address}/web/eva.pth sends a web page instead; is there a login in between?" in error
    assert not (checkpoints_dir / "eva.pth").exists()
