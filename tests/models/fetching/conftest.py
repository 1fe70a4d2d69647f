"""A local hub for every test of a download, and folders of its own for what is fetched."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants
from huggingface_hub.utils import close_session

from models.fetching import checkpoints, fetch, plan, table, transfer
from models.fetching.table import HubFile, OlderUpload, ReleasedFile, WebFile
from tests.models.fetching.local_hub import Hub, serving, sha256, use_hub
from tests.models.fetching.three_files import EVA, LLM, SPACE, STAGE


@pytest.fixture
def checkpoints_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder instead of `checkpoints/`."""
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    for module in (checkpoints, plan, fetch):
        monkeypatch.setattr(module, "CHECKPOINTS_DIR", folder)
    return folder


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checkpoints_dir: Path) -> Iterator[Hub]:
    """An empty hub that the real client talks to, with an empty cache, no token and no waiting between tries."""
    close_session()
    with serving(Hub()) as hub:
        use_hub(hub.address, monkeypatch)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.delenv("HF_TOKEN", raising=False)
        monkeypatch.setattr(transfer, "FIRST_WAIT", 0.0)
        yield hub
    close_session()


@pytest.fixture
def config(tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A YAML of three files that the hub has: a repository, a file of a Space, and one of another server."""
    hub.files |= {f"someone/llama/{name}": data for name, data in LLM.items()}
    hub.files |= {SPACE: STAGE, "eva.pth": EVA}
    files = (
        ReleasedFile(
            place="eva.pth",
            terms="BSD",
            sha256=sha256(EVA),
            size=len(EVA),
            addresses=(WebFile(f"{hub.address}/web/eva.pth"), HubFile("someone/mirror", "eva.pth")),
        ),
        ReleasedFile(
            place="v2/stage.pth",
            terms="BSD",
            sha256=sha256(STAGE),
            addresses=(HubFile("someone/space", "stage.pth", "space"),),
            older=(OlderUpload("the upload of long ago", len(STAGE), sha256(STAGE[::-1])),),
        ),
    )
    monkeypatch.setattr(table, "FILES", files)
    path = tmp_path / "model.yaml"
    path.write_text(
        "family: minigpt_v2\nlanguage_model: someone/llama\nvision_tower: eva.pth\ncheckpoint: v2/stage.pth\n"
    )
    return path
