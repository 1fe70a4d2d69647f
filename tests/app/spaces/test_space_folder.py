"""The folder for a Space: what Hugging Face reads in it, what is in it, and that it starts as that Space starts it."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

from app.spaces import space_folder
from app.spaces.__main__ import main
from app.spaces.lanes import BROUGHT_BY_THE_SPACE, LANES
from models.conversion.convert import convert
from tests.app.helpers import encode, scene
from tests.paths import ROOT
from tests.small_disk import small_disk
from tests.waiting import free_port

each_lane = pytest.mark.parametrize("lane", LANES)
# Of https://huggingface.co/docs/hub/spaces-config-reference, those that are used here.
KEYS = {
    *("title", "emoji", "colorFrom", "colorTo", "sdk", "sdk_version", "python_version", "app_file", "license"),
    *("suggested_hardware", "startup_duration_timeout", "short_description", "models"),
}
COLOURS = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}
# What a push to the hub takes without LFS is text.
TEXT = {"", ".c", ".css", ".h", ".js", ".json", ".md", ".py", ".toml", ".txt", ".yaml"}


def made(lane: str, tmp_path: Path, config: str = "tiny_minigpt_v2") -> Path:
    out = tmp_path / "space"
    argv = ["--lane", lane, "--cfg-path", str(ROOT / "eval_configs" / f"{config}.yaml"), "--out", str(out)]
    assert main(argv) == 0
    return out


def front_matter(out: Path) -> dict[str, Any]:
    _, block, _ = (out / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    front: dict[str, Any] = yaml.safe_load(block)
    return front


@each_lane
def test_what_the_hub_reads(lane: str, tmp_path: Path) -> None:
    out = made(lane, tmp_path)
    front = front_matter(out)
    assert front.keys() <= KEYS
    assert (front["sdk"], front["suggested_hardware"]) == ("gradio", LANES[lane].hardware[0].name)
    assert {front["colorFrom"], front["colorTo"]} <= COLOURS
    assert len(front["short_description"]) <= 60
    assert isinstance(front["python_version"], str)  # 3.10 would be the number 3.1
    assert (out / front["app_file"]).is_file()
    pinned = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    assert f"gradio=={front['sdk_version']}\n" in pinned


@each_lane
def test_requirements(lane: str, tmp_path: Path) -> None:
    """All that the program imports, at the tested versions, but for what a Space brings along at its own."""
    lines = (made(lane, tmp_path) / "requirements.txt").read_text(encoding="utf-8").splitlines()
    wanted = {one.name: one for one in (Requirement(line) for line in lines if line[0] != "-")}
    tested = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    own = {one.name: one for one in (Requirement(line) for line in tested if re.match(r"\w", line))}
    assert own.keys() - wanted.keys() == BROUGHT_BY_THE_SPACE
    differing = {name for name, one in own.items() if name in wanted and one != wanted[name]}
    if lane == "zerogpu":
        assert differing == {"torch"}
        assert wanted["torch"].specifier.contains("2.11.0")
        assert not wanted["torch"].specifier.contains("2.13.0")
        assert "spaces" in wanted
    else:
        assert differing == set()


def test_files_that_git_must_not_keep_as_text_go_through_lfs(tmp_path: Path) -> None:
    out = made("cpu", tmp_path)
    attributes = (out / ".gitattributes").read_text(encoding="utf-8").splitlines()
    through_lfs = {line.split()[0].removeprefix("*") for line in attributes}
    suffixes = {path.suffix for path in out.rglob("*") if path.is_file()}
    assert suffixes - TEXT <= through_lfs
    assert not [path for path in out.rglob("*") if path.name == "__pycache__"]


def test_released_weights_are_fetched_by_the_space_and_their_terms_are_told(tmp_path: Path) -> None:
    out = made("gpu", tmp_path, "minigpt_v2")
    assert not (out / "checkpoints").exists()
    assert "--download" in (out / "space.py").read_text(encoding="utf-8")
    front, readme = front_matter(out), (out / "README.md").read_text(encoding="utf-8")
    assert "meta-llama/Llama-2-7b-chat-hf" in front["models"]
    assert "Llama 2 Community License. Accept them on its page" in readme
    assert "`HF_TOKEN`" in readme
    assert "New scene" not in readme
    assert not (out / "training").exists()  # it draws scenes for the bundled models alone


@pytest.mark.parametrize(
    ("lane", "config", "hardware", "told", "said"),
    [
        (
            "cpu",
            "tinygptv_stage4",
            "cpu-basic",
            '"--device", "cpu", "--dtype", "bfloat16"]',
            "7.2 GiB of weights in 16",
        ),
        (
            "cpu",
            "minigpt_v2",
            "cpu-basic",
            '"--dtype", "bfloat16", "--quantization", "4bit"]',
            "5.8 GiB of weights in 4",
        ),
        ("gpu", "minigpt_v2", "l4x1", '"--device", "cuda"]', "14.4 GiB of weights in 16 bits fit an L4 (21.5 GiB"),
        ("gpu", "mgm_13b_hd", "l40sx1", '"--device", "cuda"]', "25.2 GiB of weights in 16 bits fit an L40S (44.0 GiB"),
        ("gpu", "mgm_8x7b", "a100-large", '"--quantization", "8bit"]', "44.9 GiB of weights in 8 bits fit an A100"),
        ("zerogpu", "moe_llava_openchat", "zero-a10g", '"--quantization", "none"]', "29.8 GiB of weights in 16 bits"),
    ],
)
def test_hardware_and_precision_that_fit_are_taken_and_told(
    lane: str, config: str, hardware: str, told: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = made(lane, tmp_path, config)
    assert said in capsys.readouterr().out
    assert front_matter(out)["suggested_hardware"] == hardware
    assert f"{told} + sys.argv" in (out / "space.py").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("lane", "config", "said"),
    [
        ("cpu", "mgm_34b", ["65.1 GiB in 16 bits, 20.3 GiB in 4 bits", "the free CPU (12.9 GiB", "Take --lane gpu."]),
        ("zerogpu", "mgm_34b", ["its weights are 65.1 GiB in 16 bits", "ZeroGPU (46.5 GiB for", "Take --lane gpu."]),
    ],
)
def test_a_model_that_does_not_fit_its_lane_is_refused_with_figures(
    lane: str, config: str, said: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--lane", lane, "--cfg-path", str(ROOT / "eval_configs" / f"{config}.yaml"), "--out", str(tmp_path / "new")]
    assert main(argv) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert [text for text in said if text not in line] == []
    assert not (tmp_path / "new").exists()


def test_a_model_of_ones_own_whose_size_is_not_known_is_a_note(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "mine.yaml"
    config.write_text("family: mini_gemini\nname: Mine\nlanguage_model: me/my-mgm\n")
    assert main(["--lane", "gpu", "--cfg-path", str(config), "--out", str(tmp_path / "new")]) == 0
    assert "note: whether Mine fits an L4 (21.5 GiB for a model) can't be told" in capsys.readouterr().out


def test_what_cannot_be_pushed_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine.txt").touch()
    assert main(["--out", str(full)]) == 2
    assert "already and not empty" in capsys.readouterr().err
    config = tmp_path / "mine.yaml"
    tiny = (ROOT / "eval_configs" / "tiny_minigpt_v2.yaml").read_text(encoding="utf-8")
    outside = tmp_path / "mine.pth"
    outside.touch()
    for name, said in ((str(outside), "outside of"), ("nowhere.pth", "neither here"), ("/path/to/x", "placeholder")):
        config.write_text(tiny.replace("tiny_minigpt_v2/minigptv2_checkpoint.pth", name), encoding="utf-8")
        assert main(["--cfg-path", str(config), "--out", str(tmp_path / "new")]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert said in line
        assert not (tmp_path / "new").exists()


def test_a_converted_model_is_pushed_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From below checkpoints/, as all that only this machine has."""
    converted = tmp_path / "checkpoints" / "fast"
    convert(ROOT / "eval_configs" / "tiny_minigpt_v2.yaml", converted, report=lambda _: None)
    argv = ["--cfg-path", str(converted), "--out", str(tmp_path / "space")]
    assert main(argv) == 2
    assert f"{converted} is outside of {ROOT / 'checkpoints'}; move it there." in capsys.readouterr().err
    monkeypatch.setattr(space_folder, "CHECKPOINTS_DIR", converted.parent)
    assert main(argv) == 0
    pushed = tmp_path / "space" / "checkpoints" / "fast"
    assert sorted(p.name for p in pushed.iterdir()) == sorted(p.name for p in converted.iterdir())
    assert '"checkpoints/fast"' in (tmp_path / "space" / "space.py").read_text(encoding="utf-8")


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with small_disk(100_000):
        assert main(["--out", str(tmp_path / "space")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("can't be written: the disk is full; make room. Nothing half-written was left.")
    assert list(tmp_path.iterdir()) == []


def test_a_gpu_space_without_a_gpu_says_so(python: list[str], tmp_path: Path) -> None:
    """Up to the choice of the device it is what a Space with a GPU does; the rest is that of any GPU."""
    done = subprocess.run(
        [*python, "space.py"], cwd=made("gpu", tmp_path), env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "Everything is here." in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: device 'cuda'")


def environment(**more: str) -> dict[str, str]:
    """As on a Space, with nothing of this checkout to be imported."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "OMP_NUM_THREADS") if name in os.environ}
    return kept | {"SPACE_HOST": "me-chat.hf.space", "GRADIO_SERVER_NAME": "0.0.0.0", "HF_HUB_OFFLINE": "1"} | more


@contextmanager
def started(python: list[str], out: Path, *arguments: str, **more: str) -> Iterator[str]:
    """The Space's address once it answers."""
    port = free_port()
    command = [*python, front_matter(out)["app_file"], "--port", str(port), *arguments]
    with subprocess.Popen(
        command, cwd=out, env=environment(**more), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as space:
        assert space.stdout is not None
        try:
            lines = []
            for line in space.stdout:
                lines.append(line)
                if line.startswith("Programs ask"):
                    break
            else:
                raise AssertionError("".join(lines))
            yield f"http://127.0.0.1:{port}"
        finally:
            space.terminate()
            try:
                space.communicate(timeout=60)
            except subprocess.TimeoutExpired:
                space.kill()
                raise


def asked(url: str) -> str:
    """What the Space answers, as its visitors come: through a proxy of its network, by its own name."""
    picture = "data:image/png;base64," + base64.b64encode(encode(scene())).decode()
    content = [{"type": "image_url", "image_url": {"url": picture}}, {"type": "text", "text": "[vqa] what is red?"}]
    request = urllib.request.Request(
        f"{url}/v1/chat/completions",
        data=json.dumps({"messages": [{"role": "user", "content": content}]}).encode(),
        headers={"Content-Type": "application/json", "Host": "me-chat.hf.space"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return str(json.load(answer)["choices"][0]["message"]["content"])


@pytest.mark.parametrize("lane", ["cpu", "zerogpu"])
def test_it_starts_as_the_space_starts_it(lane: str, python: list[str], tmp_path: Path) -> None:
    """In the folder alone; on ZeroGPU with the stand-in under the package's name."""
    stand_in = tmp_path / "site"
    stand_in.mkdir()
    (stand_in / "spaces.py").write_bytes((ROOT / "tests" / "zero_gpu" / "spaces.py").read_bytes())
    on_zero = {"SPACES_ZERO_GPU": "true", "PYTHONPATH": str(stand_in)} if lane == "zerogpu" else {}
    with started(python, made(lane, tmp_path), **on_zero) as url:
        page = urllib.request.Request(f"{url}/", headers={"Host": "me-chat.hf.space"})
        with urllib.request.urlopen(page, timeout=60) as answer:
            # Hugging Face shows a Space in a frame.
            assert "https://huggingface.co" in answer.headers["content-security-policy"]
        (answer_text,) = {asked(url) for _ in range(3)}
        assert answer_text
