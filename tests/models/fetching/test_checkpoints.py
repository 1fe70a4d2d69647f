"""Hub ids against a small server of our own that speaks as much of the hub's protocol as a download needs."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
from huggingface_hub import constants

from models.config import load_config
from models.errors import CheckpointMissing, DownloadFailed
from models.fetching.checkpoints import resolve

NO_HUB = "http://127.0.0.1:9"  # nothing listens there
COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = {
    "config.json": b'{"model_type": "llama"}',
    "tokenizer.model": b"pieces",
    "model.safetensors": b"safe weights",
    "pytorch_model.bin": b"the same weights again",
    "README.md": b"not needed",
}
BIN_ONLY = {name: data for name, data in FILES.items() if name != "model.safetensors"}
REPOSITORIES = {"someone/llama": FILES, "someone/old-llama": BIN_ONLY}


class Hub(BaseHTTPRequestHandler):
    """`/api/models/ID[/revision/main]` lists files, `/ID/resolve/COMMIT/FILE` gives them; one repository is gated."""

    downloads: ClassVar[list[str]] = []

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        parts = self.path.split("?")[0].strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            return self.answer_info("/".join(parts[2:4]))
        repository, file = "/".join(parts[:2]), "/".join(parts[4:])
        data = REPOSITORIES[repository][file]
        if self.command == "GET":
            self.downloads.append(f"{repository}/{file}")
        self.reply(data, {"ETag": f'"{file}"', "X-Repo-Commit": COMMIT})

    def answer_info(self, repository: str) -> None:
        if repository == "meta/gated":
            return self.reply(b"{}", {"X-Error-Code": "GatedRepo", "X-Error-Message": "ask first"}, status=403)
        if repository not in REPOSITORIES:
            return self.reply(b"{}", {"X-Error-Code": "RepoNotFound"}, status=404)
        files = REPOSITORIES[repository]
        info = {"id": repository, "sha": COMMIT, "siblings": [{"rfilename": name} for name in files]}
        if "/tree/" in self.path:
            tree = [{"type": "file", "path": name, "size": len(data), "oid": name} for name, data in files.items()]
            return self.reply(json.dumps(tree).encode(), {})
        return self.reply(json.dumps(info).encode(), {})

    def reply(self, data: bytes, headers: dict[str, str], status: int = 200) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), "Content-Type": "application/json", **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def hub() -> Iterator[str]:
    Hub.downloads = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def use_hub(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", address)
    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


@pytest.fixture(autouse=True)
def use_our_hub(hub: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_hub(hub, monkeypatch)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))


def resolve_language_model(repository: str, tmp_path: Path) -> Path:
    for name in ("a.pth", "eva.pth"):
        (tmp_path / name).touch()
    (tmp_path / "model.yaml").write_text(
        f"family: minigpt_v2\ncheckpoint: a.pth\nvision_tower: eva.pth\nlanguage_model: {repository}\n"
    )
    return resolve(load_config(tmp_path / "model.yaml"), "language_model")


def test_a_repository_is_downloaded_once_without_its_duplicates(tmp_path: Path) -> None:
    folder = resolve_language_model("someone/llama", tmp_path)
    assert {path.name for path in folder.iterdir()} == {"config.json", "tokenizer.model", "model.safetensors"}
    assert (folder / "model.safetensors").read_bytes() == FILES["model.safetensors"]
    count = len(Hub.downloads)
    assert resolve_language_model("someone/llama", tmp_path) == folder
    assert len(Hub.downloads) == count


def test_nothing_is_downloaded_while_other_files_are_missing(tmp_path: Path) -> None:
    """They may be had with a browser only; all are named at once."""
    config = tmp_path / "model.yaml"
    config.write_text("family: minigpt_v2\ncheckpoint: a.pth\nvision_tower: b.pth\nlanguage_model: someone/llama\n")
    with pytest.raises(
        CheckpointMissing, match=r"3 files are missing\. language_model: someone/llama .* a\.pth"
    ) as error:
        resolve(load_config(config), "language_model")
    assert "\n" not in str(error.value)
    assert Hub.downloads == []


def test_a_download_says_first_what_is_to_come(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = resolve_language_model("someone/llama", tmp_path)
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("someone/llama is not here yet: 0 MiB come from http://127.0.0.1:")
    assert f"/someone/llama to {tmp_path / 'cache'} (" in output.err
    resolve_language_model("someone/llama", tmp_path)
    assert folder.is_dir()
    assert capsys.readouterr().err == ""


def test_a_disk_that_is_too_small_is_told_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=10)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(DownloadFailed, match=r"has 0 MiB free\. Make room, or set HF_HUB_CACHE to use another"):
        resolve_language_model("someone/llama", tmp_path)
    assert Hub.downloads == []


def test_a_cached_repository_needs_no_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = resolve_language_model("someone/llama", tmp_path)
    use_hub(NO_HUB, monkeypatch)
    assert resolve_language_model("someone/llama", tmp_path) == folder


def test_bin_weights_are_taken_where_there_are_no_others(tmp_path: Path) -> None:
    folder = resolve_language_model("someone/old-llama", tmp_path)
    assert (folder / "pytorch_model.bin").is_file()


@pytest.mark.parametrize(
    ("repository", "message"),
    [
        ("meta/gated", "meta/gated is gated: accept its licence .*hf auth login"),
        ("someone/nothing", "someone/nothing is not on the hub, or needs a login"),
    ],
)
def test_a_refused_download_says_what_to_do(repository: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointMissing, match=message) as error:
        resolve_language_model(repository, tmp_path)
    assert "\n" not in str(error.value)


def test_no_hub_at_all_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_hub(NO_HUB, monkeypatch)
    with pytest.raises(
        CheckpointMissing, match=r"someone/llama: no connection, or one that breaks off .*HF_ENDPOINT is "
    ) as error:
        resolve_language_model("someone/llama", tmp_path)
    assert "\n" not in str(error.value)
