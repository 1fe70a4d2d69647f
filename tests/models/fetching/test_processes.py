"""Downloads in processes of their own: killed, and two at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.models.fetching.local_hub import Hub
from tests.models.fetching.three_files import BYTES
from tests.paths import ROOT

CHILD = """
import sys
from pathlib import Path
from huggingface_hub import constants
from models.fetching import fetch, plan, table
from models.fetching import checkpoints
for module in (checkpoints, plan, fetch):
    module.CHECKPOINTS_DIR = Path(sys.argv[1])
table.FILES = (table.ReleasedFile(place="big.pth", terms="", addresses=(table.HubFile("someone/big", "big.pth"),)),)
from models.__main__ import main
sys.exit(main(["fetch", sys.argv[2]]))
"""


def child(hub: Hub, checkpoints_dir: Path, config: Path) -> subprocess.Popen[str]:
    environment = os.environ | {
        "HF_ENDPOINT": hub.address,
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_CACHE": str(checkpoints_dir.parent / "cache"),
    }
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, str(checkpoints_dir), str(config)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def big(hub: Hub, tmp_path: Path) -> tuple[bytes, Path]:
    """A large file and a large repository, sent slowly, and a YAML of them."""
    data = BYTES(300_000)
    hub.files |= {"someone/big/big.pth": data, "someone/llm/config.json": b"{}", "someone/llm/model.safetensors": data}
    hub.pause = 0.005
    path = tmp_path / "big.yaml"
    here = tmp_path / "eva.pth"
    here.write_bytes(b"")
    path.write_text(f"family: minigpt_v2\nlanguage_model: someone/llm\nvision_tower: {here}\ncheckpoint: big.pth\n")
    return data, path


def sizes_of(folder: Path, pattern: str) -> list[int]:
    """Of the files there are; none where a folder, which the process makes and deletes, went while it was looked at."""
    with suppress(FileNotFoundError):
        return [path.stat().st_size for path in folder.rglob(pattern)]
    return []


def kill_while_it_comes(process: subprocess.Popen[str], folder: Path, pattern: str) -> None:
    """kill -9 once more than 50 kB of a file are here."""
    for _ in range(6_000):
        if any(size > 50_000 for size in sizes_of(folder, pattern)):
            break
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()


def test_a_killed_download_goes_on_where_it_stopped(
    big: tuple[bytes, Path], hub: Hub, checkpoints_dir: Path, tmp_path: Path
) -> None:
    data, config = big
    for pattern in ("blobs/*.part", "big.pth.part"):  # in the repository, then in the single file
        kill_while_it_comes(child(hub, checkpoints_dir, config), tmp_path, pattern)
        assert all(50_000 < path.stat().st_size < len(data) for path in tmp_path.rglob(pattern))
    hub.pause = 0
    process = child(hub, checkpoints_dir, config)
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    assert (checkpoints_dir / "big.pth").read_bytes() == data
    for name in ("someone/big/big.pth", "someone/llm/model.safetensors"):
        first, *later = hub.downloads(name)
        assert first == ""
        assert len(later) == 1
        assert int(later[0].removeprefix("bytes=").removesuffix("-")) > 50_000


def test_two_processes_fetch_once(big: tuple[bytes, Path], hub: Hub, checkpoints_dir: Path) -> None:
    data, config = big
    hub.pause = 0.001
    processes = [child(hub, checkpoints_dir, config) for _ in range(2)]
    for process in processes:
        _, errors = process.communicate()
        assert process.returncode == 0, errors
    assert (checkpoints_dir / "big.pth").read_bytes() == data
    assert hub.others == [], "requests for anything but files"
    assert hub.downloads("someone/big/big.pth") == [""]
    assert hub.downloads("someone/llm/model.safetensors") == [""]
