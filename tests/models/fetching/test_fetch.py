"""What a configuration needs, fetched from a local hub by the real client, and checked."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from huggingface_hub import snapshot_download, try_to_load_from_cache

from models.config import load_config
from models.fetching.checkpoints import resolve
from models.fetching.fetch import fetch
from models.fetching.plan import make_plan
from tests.models.fetching.local_hub import COMMIT, Hub, sha256, use_hub
from tests.models.fetching.three_files import EVA, LLM, NEEDED, SPACE, STAGE, run


def test_everything_is_fetched_and_then_found(
    config: Path, hub: Hub, checkpoints_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    status, out, _ = run(["fetch", str(config)], capsys)
    assert status == 0
    assert "model needs:" in out
    assert out.endswith(f"\nServe it: python demo.py --cfg-path {config}\n")
    assert "Terms: BSD (eva.pth, v2/stage.pth)" in out
    assert (checkpoints_dir / "eva.pth").read_bytes() == EVA
    assert (checkpoints_dir / "v2" / "stage.pth").read_bytes() == STAGE
    assert sorted(path.name for path in checkpoints_dir.rglob("*.*")) == [".hashes.json", "eva.pth", "stage.pth"]
    use_hub("http://127.0.0.1:9", monkeypatch)  # as the loader finds it later, without a hub
    folder = resolve(load_config(config), "language_model")
    assert sorted(path.name for path in folder.iterdir()) == sorted(NEEDED)
    assert all((folder / name).read_bytes() == LLM[name] for name in NEEDED)


def test_a_second_time_fetches_nothing(config: Path, hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    run(["fetch", str(config)], capsys)
    hub.requests.clear()
    status, out, _ = run(["fetch", str(config)], capsys)
    assert status == 0
    assert "Everything is here." in out
    assert not [path for method, path, _ in hub.requests if method == "GET" and not path.startswith("/api/")]


def test_a_dry_run_fetches_nothing(
    config: Path, hub: Hub, checkpoints_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, _ = run(["fetch", str(config), "--dry-run"], capsys)
    total = len(EVA) + len(STAGE) + sum(len(LLM[name]) for name in NEEDED)
    assert status == 0
    assert f"To fetch: {total / 2**20:.1f} MiB. Free: " in out
    assert out.endswith(f"\nFetch it: python -m models fetch {config}\n")
    assert os.listdir(checkpoints_dir) == []
    assert not [path for method, path, _ in hub.requests if method == "GET" and not path.startswith("/api/")]


def test_the_bar_counts_every_byte_once(config: Path, hub: Hub) -> None:
    hub.cuts[SPACE] = [5_000]
    come: list[int] = []
    plan = make_plan(load_config(config))
    total = sum(item.missing_bytes for item in plan.items)
    fetch(plan, on_bytes=come.append)
    assert sum(come) == total == len(EVA) + len(STAGE) + sum(len(LLM[name]) for name in NEEDED)


def test_a_cut_in_a_repository_goes_on_where_it_stopped(
    config: Path, hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    shard = "someone/llama/model-00001-of-00002.safetensors"
    hub.cuts[shard] = [20_000] + [0] * 20
    status, _, error = run(["fetch", str(config)], capsys)
    assert status == 2
    assert error.startswith("error: model is not complete: someone/llama: no connection, or one that breaks off")
    hub.cuts.clear()
    status, out, _ = run(["fetch", str(config)], capsys)
    assert status == 0
    assert "of it came earlier" in out
    assert hub.downloads(shard)[-1] == "bytes=20000-"


@pytest.mark.parametrize(("lacking", "said"), [("config.json", "config.json"), ("model-", "weights in safetensors")])
def test_a_repository_that_is_no_model_is_refused_before_it_comes(
    lacking: str, said: str, config: Path, hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    """Else what has come is not found, and the person is sent to fetch it again."""
    kept = [name for name in hub.files if f"/llama/{lacking}" not in name and "llama/pytorch_model" not in name]
    hub.files = {name: hub.files[name] for name in kept}
    status, _, error = run(["fetch", str(config)], capsys)
    assert status == 2
    assert f"someone/llama has no {said}" in error
    assert not hub.downloads("someone/llama/tokenizer.model")


def test_pickled_weights_come_where_there_are_no_others(config: Path, hub: Hub) -> None:
    hub.files = {name: data for name, data in hub.files.items() if not name.endswith(".safetensors")}
    fetch(make_plan(load_config(config)))
    assert isinstance(try_to_load_from_cache("someone/llama", "pytorch_model.bin"), str)


def test_the_hubs_own_client_finds_what_was_fetched(config: Path, hub: Hub) -> None:
    fetch(make_plan(load_config(config)))
    hub.requests.clear()
    folder = Path(snapshot_download("someone/llama", allow_patterns=NEEDED))
    assert folder.name == COMMIT
    assert not [path for method, path, _ in hub.requests if "/cdn/" in path]


def test_a_different_hash_is_a_note_with_both(
    config: Path, hub: Hub, checkpoints_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.files[SPACE] = b"new" * 10_000
    status, out, _ = run(["fetch", str(config)], capsys)
    assert status == 0
    assert f"its sha256 is {sha256(b'new' * 10_000)}, but {sha256(STAGE)} was expected. It is used" in out


def test_an_older_upload_is_named(
    config: Path, checkpoints_dir: Path, hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    (checkpoints_dir / "stage.pth").write_bytes(STAGE[::-1])
    _, out, _ = run(["fetch", str(config)], capsys)
    assert "this is the upload of long ago" in out


def test_wrong_bytes_of_the_right_size_in_the_cache_are_an_error(
    config: Path, hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    """An edited config.json is not: that may be meant."""
    fetch(make_plan(load_config(config)))
    small = Path(str(try_to_load_from_cache("someone/llama", "config.json"))).resolve()
    small.write_bytes(LLM["config.json"][::-1])
    status, out, _ = run(["fetch", str(config)], capsys)
    assert status == 0
    assert "its git hash is " in out
    name = "model-00001-of-00002.safetensors"
    file = Path(str(try_to_load_from_cache("someone/llama", name)))
    shard = file.resolve()
    shard.write_bytes(bytes(len(LLM[name])))
    os.utime(shard, ns=(1, 1))
    status, _, error = run(["fetch", str(config)], capsys)
    assert status == 2
    assert f"but the hub says {sha256(LLM[name])}, so it is damaged. Delete it and start again." in error
    file.unlink()  # as it says: which deletes a link alone
    status, out, _ = run(["fetch", str(config)], capsys)
    assert status == 0
    assert "Everything is here." not in out
    assert "the hub's cache has its content; that is checked" in out.lower()
    assert file.read_bytes() == LLM[name]


@pytest.mark.parametrize("name", ["model-00001-of-00002.safetensors", "config.json"])
def test_a_repository_that_sends_other_bytes_than_it_lists_is_refused(
    name: str, config: Path, hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    right = LLM[name]
    hub.sent[f"someone/llama/{name}"] = right[::-1]
    status, _, error = run(["fetch", str(config)], capsys)
    assert status == 2
    assert "Nothing of it was kept; start again later" in error
    assert try_to_load_from_cache("someone/llama", name) is None
    assert not [path for path in config.parent.rglob("*") if path.is_file() and path.read_bytes() == right[::-1]]
    hub.sent.clear()
    assert run(["fetch", str(config)], capsys)[0] == 0
    assert Path(str(try_to_load_from_cache("someone/llama", name))).read_bytes() == right


def test_content_of_the_cache_without_its_link_is_not_here(
    config: Path, hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    run(["fetch", str(config)], capsys)
    name = "model-00002-of-00002.safetensors"
    file = next(path for path in config.parent.rglob(name))
    file.unlink()  # as a kill leaves it between the last byte and the client's links
    hub.requests.clear()
    run(["fetch", str(config)], capsys)
    assert file.read_bytes() == LLM[name]
    assert hub.downloads(f"someone/llama/{name}") == []


def test_other_bytes_than_the_source_publishes_are_refused(
    config: Path, hub: Hub, checkpoints_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    newer = STAGE[1:] + b"!"  # than the table knows
    hub.files[SPACE], hub.sent[SPACE] = newer, bytes(len(newer))
    status, _, error = run(["fetch", str(config)], capsys)
    assert status == 2
    assert f"its server announces {sha256(newer)}: the file is damaged there or on the way" in error
    assert list((checkpoints_dir / "v2").iterdir()) == []


def test_the_next_address_is_asked_where_one_fails(config: Path, hub: Hub, checkpoints_dir: Path) -> None:
    del hub.files["eva.pth"]
    hub.files["someone/mirror/eva.pth"] = EVA
    fetch(make_plan(load_config(config)))
    assert (checkpoints_dir / "eva.pth").read_bytes() == EVA
