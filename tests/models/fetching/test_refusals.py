"""What is said when files can't be fetched: one line each, and the rest comes all the same."""

from __future__ import annotations

import json
import sys
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import constants
from huggingface_hub.utils import close_session

from models.fetching import plan as plans
from models.fetching import table
from models.fetching.table import ReleasedFile, WebFile
from tests.models.fetching.local_hub import Hub, sha256, use_hub
from tests.models.fetching.three_files import EVA, run
from tests.small_disk import small_disk


@pytest.mark.parametrize(
    ("status", "code", "token", "message"),
    [
        (403, "GatedRepo", "", "someone/llama is gated: accept its licence at https://huggingface.co/someone/llama,"),
        (401, "GatedRepo", "", "then run `hf auth login` or set HF_TOKEN"),
        (403, "GatedRepo", "hf_x", "the account of your token has no access yet"),
        (403, "", "", "someone/llama is gated"),
        (401, "", "", "someone/llama is not on the hub, or needs a login"),
        (401, "", "hf_x", "or your token (HF_TOKEN, `hf auth login`) may not read it"),
        (404, "RepoNotFound", "", "someone/llama is not on the hub"),
        (429, "", "", "someone/llama: the server says too many requests; start again in some minutes"),
        (500, "", "", "someone/llama: the server has an error (500); start again in some minutes"),
    ],
)
def test_a_refused_repository_is_one_line_and_the_rest_comes(
    status: int,
    code: str,
    token: str,
    message: str,
    config: Path,
    hub: Hub,
    checkpoints_dir: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    hub.refused["someone/llama"] = (status, code)
    result, out, error = run(["fetch", str(config)], capsys)
    assert result == 2
    assert message in error
    assert f"{'':10}  someone/llama" not in out  # once is enough
    assert (checkpoints_dir / "eva.pth").is_file()


def test_no_connection_is_one_line(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    use_hub("http://127.0.0.1:9", monkeypatch)
    status, out, error = run(["fetch", str(config)], capsys)
    assert status == 2
    assert f"{'':10}  someone/llama" not in out
    same = "no connection, or one that breaks off (ConnectError); is this machine online? HF_ENDPOINT is"
    assert error.startswith(f"error: model is not complete: someone/llama, v2/stage.pth: {same} http://127.0.0.1:9;")


def test_a_proxy_that_is_not_there_is_named(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    status, _, error = run(["fetch", str(config)], capsys)
    assert status == 2
    assert "is the proxy right that HTTP_PROXY names?" in error


@pytest.mark.parametrize(
    ("proxy", "message"),
    [
        ("socks5://127.0.0.1:9", "Using SOCKS proxy; run: pip install socksio."),
        ("nonsense://x", "; correct it, or unset it."),
    ],
)
def test_a_proxy_of_another_kind_is_one_line(
    proxy: str, message: str, config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if proxy.startswith("socks"):
        monkeypatch.setitem(sys.modules, "socksio", None)  # as it is where nobody installed it
    monkeypatch.setenv("ALL_PROXY", proxy)
    close_session()
    status, _, error = run(["fetch", str(config)], capsys)
    assert status == 2
    assert error.startswith(f"error: The proxy can't be used (ALL_PROXY={proxy}): ")
    assert message in error


def test_offline_is_said_and_what_is_here_is_enough(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    status, _, error = run(["fetch", str(config)], capsys)
    assert status == 2
    assert "can't be downloaded while HF_HUB_OFFLINE is set; unset it." in error
    status, out, _ = run(["fetch", str(config), "--dry-run"], capsys)
    assert "someone/llama can't be downloaded while HF_HUB_OFFLINE is set; unset it." in out
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    run(["fetch", str(config)], capsys)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    status, out, _ = run(["fetch", str(config)], capsys)
    assert status == 0
    assert "Everything is here." in out


def test_too_little_room_is_told_before_anything_comes(
    config: Path, hub: Hub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(plans.shutil, "disk_usage", lambda _: usage(10, 10, 1000))
    status, _, error = run(["fetch", str(config)], capsys)
    assert status == 2
    assert "0.1 MiB are to be fetched, but" in error
    assert "has 0.0 MiB free. Make room." in error
    assert not [path for method, path, _ in hub.requests if "/cdn/" in path]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_one_line(
    config: Path, hub: Hub, checkpoints_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    note = {"url": f"{hub.address}/web/eva.pth", "size": len(EVA), "sha256": sha256(EVA)}
    (checkpoints_dir / "eva.pth.part.json").write_text(json.dumps(note))
    (checkpoints_dir / "eva.pth.part").symlink_to("/dev/full")
    status, _, error = run(["fetch", str(config)], capsys)
    assert status == 2
    assert "eva.pth: the disk is full; make room and start again" in error


def test_a_file_that_may_not_grow_is_one_line_and_goes_on_later(
    config: Path, hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    """A quota, or `ulimit -f`."""
    with small_disk(25_000):
        status, _, error = run(["fetch", str(config)], capsys)
    assert status == 2
    assert "eva.pth: the disk is full; make room and start again, what is here is kept." in error
    assert run(["fetch", str(config)], capsys)[0] == 0
    (again,) = [wanted for method, path, wanted in hub.requests if method == "GET" and "eva.pth" in path and wanted]
    assert int(again.removeprefix("bytes=").removesuffix("-")) > 0


def test_a_file_that_only_a_browser_gets_is_named(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config.write_text(config.read_text().replace("v2/stage.pth", "v2/by_hand.pth"))
    row = ReleasedFile(place="v2/by_hand.pth", terms="BSD", by_hand="https://drive.example/1")
    table.FILES = (*table.FILES, row)  # undone with the fixture's monkeypatch
    status, _, error = run(["fetch", str(config)], capsys)
    assert status == 2
    assert "Get https://drive.example/1 with a browser, and put it at " in error


@pytest.mark.parametrize("status", [401, 403])
def test_a_refusal_of_another_server_is_no_licence_to_accept(
    status: int, config: Path, hub: Hub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = f"{hub.cdn}/web/eva.pth"  # by another name than the hub's
    first, *others = table.FILES
    monkeypatch.setattr(table, "FILES", (replace(first, addresses=(WebFile(other),)), *others))
    hub.statuses["eva.pth"] = [status]
    code, _, error = run(["fetch", str(config)], capsys)
    assert code == 2
    assert f"eva.pth: {other} refuses to send it ({status})" in error
    assert "licence" not in error
