"""A start that can't succeed ends with one line, and any start or cluster ends when it is told to."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.app.cluster.asking import CONFIG, MODEL, first_message
from tests.paths import ROOT
from tests.waiting import eventually, free_port

pytestmark = pytest.mark.usefixtures("with_ray")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--replicas", "2", "--gpus", "64"), "There is no place for 2 x --gpus 64, of each replica: the machine has "),
        (("--replicas", "9999"), "There is no place for 9999 x --cpus 1, of each replica: the machine has "),
        (("--gpus", "1.5"), "gpus 1.5: a replica has a part of one GPU (0 to 1), or a whole number of them."),
        (("--device", "cuda:0"), "device cuda:0 needs gpus: a replica sees no others than those it is given."),
        (("--min-replicas", "3", "--max-replicas", "2"), "min-replicas 3 is more than max-replicas 2."),
        (("--min-replicas", "1"), "min-replicas 1 needs max-replicas, which says how many there may be."),
        (("--replicas", "2", "--max-replicas", "3"), "replicas 2 is for a number that stays, min-replicas and "),
        (("--replicas", "0"), "replicas: input should be greater than or equal to 1."),
        (("--port", "99999"), "--port 99999 does not exist; choose one from 1 to 65535."),
        (("--options", "no_such_key=1"), "no_such_key"),
    ],
)
def test_what_cant_be_is_one_line(words: tuple[str, ...], said: str, capfd: pytest.CaptureFixture[str]) -> None:
    from app.cluster.__main__ import main

    assert main(["--cfg-path", str(CONFIG), "--port", "0", *words]) == 1
    line = capfd.readouterr().err
    assert said in line
    assert line.startswith("error: ")
    assert line.count("\n") == 1


def test_files_that_are_not_here_are_told_before_anything_starts(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from app.cluster.__main__ import main

    config = tmp_path / "lacking.yaml"
    config.write_text((ROOT / "eval_configs" / "minigpt_v2.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    options = ["--options", f"checkpoint={tmp_path / 'nowhere.pth'}"]
    assert main(["--cfg-path", str(config), "--port", "0", *options]) == 1
    assert "error: Not here: " in (line := capfd.readouterr().err)
    assert "nowhere.pth" in line
    assert main(["--cfg-path", str(tmp_path / "none.yaml"), "--port", "0"]) == 1
    assert "python demo.py --list" in capfd.readouterr().err


def test_a_port_that_is_taken_is_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    from app.cluster.__main__ import main

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["--cfg-path", str(CONFIG), "--port", str(port)]) == 1
    assert f"error: can't listen on 127.0.0.1:{port} (" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("gpus", "cpus", "replicas", "machines", "fits"),
    [
        (0, 1, 2, [{"CPU": 2}], True),
        (0, 1, 3, [{"CPU": 2}], False),
        (0, 0.4, 5, [{"CPU": 2}], True),
        (1, 1, 2, [{"CPU": 8, "GPU": 1}, {"CPU": 8, "GPU": 1}], True),
        (2, 1, 1, [{"CPU": 8, "GPU": 1}, {"CPU": 8, "GPU": 1}], False),  # a replica is on one machine
        (0.4, 1, 4, [{"CPU": 8, "GPU": 2}], True),
        (0.4, 1, 5, [{"CPU": 8, "GPU": 2}], False),  # two on each GPU
        (1, 1, 1, [{"CPU": 8}, {"GPU": 1}], False),
    ],
)
def test_replicas_have_places_or_not(
    gpus: float, cpus: float, replicas: int, machines: list[dict[str, float]], fits: bool
) -> None:
    from app.cluster.application import ClusterSettings
    from app.cluster.resources import check_resources
    from models.errors import ConfigError

    settings = ClusterSettings.model_validate({"configs": [CONFIG], "gpus": gpus, "cpus": cpus, "replicas": replicas})
    if fits:
        return check_resources(settings, machines)
    with pytest.raises(ConfigError, match="There is no place for"):
        check_resources(settings, machines)


def test_a_file_for_serve_deploy_may_name_configurations_from_the_programs_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray's processes do not start there."""
    from app.cluster.application import ClusterSettings, build

    monkeypatch.chdir(tmp_path)
    assert build({"configs": ["eval_configs/tiny_minigpt_v2.yaml"]})
    (tmp_path / "eval_configs").mkdir()
    own = tmp_path / "eval_configs" / "tiny_minigpt_v2.yaml"
    own.write_text("family: none", encoding="utf-8")
    (found,) = ClusterSettings.model_validate({"configs": ["eval_configs/tiny_minigpt_v2.yaml"]}).configs
    assert found.resolve() == own  # which is nearer


def test_a_cluster_that_is_not_there_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from app.cluster.__main__ import main

    monkeypatch.setenv("RAY_ADDRESS", address := f"127.0.0.1:{free_port()}")
    assert main(["--cfg-path", str(CONFIG)]) == 1
    assert f"error: No cluster answers at RAY_ADDRESS={address} (" in capfd.readouterr().err


def test_the_reason_is_the_last_error_of_ours() -> None:
    from app.cluster.running import reason_in

    message = "A replica failed to start. Error:\nTraceback:\n  File x\nmodels.errors.CheckpointCorrupt: a.pth is cut."
    assert reason_in(message) == ("a.pth is cut.", True)
    assert reason_in("Failed.\nTraceback:\nMemoryError: no room\n") == ("MemoryError: no room", False)
    assert reason_in("") == ("no reason was given", False)


@contextmanager
def started(*words: Any) -> Iterator[subprocess.Popen[str]]:
    """The command in a process group of its own, as a terminal starts it; all of it is gone afterwards."""
    command = [sys.executable, "-m", "app.cluster", "--port", free_port(), "--cpus", "0.1", *words]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    running = subprocess.Popen(
        [str(word) for word in command],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield running
    finally:
        running.kill()
        running.communicate()


def raylets(process: psutil.Process) -> list[psutil.Process]:
    return [one for one in process.children(recursive=True) if one.name() == "raylet"]


def test_a_model_that_does_not_come_up_ends_the_start_with_its_reason(tmp_path: Path) -> None:
    """Its file is there, and is cut: only the replica that loads it finds that out."""
    config = tmp_path / "cut.yaml"
    (tmp_path / "cut.safetensors").write_bytes(b"no weights")
    config.write_text(CONFIG.read_text(encoding="utf-8"), encoding="utf-8")
    with started("--cfg-path", config, "--options", f"checkpoint={tmp_path / 'cut.safetensors'}") as running:
        _, said = running.communicate(timeout=180)
    assert running.returncode == 1
    assert said.startswith("error: cut did not come up: ")
    assert "cut.safetensors" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_start_ends_when_it_is_told_to(number: signal.Signals) -> None:
    """In its middle: Ray runs, and no model is there yet."""
    with started("--cfg-path", CONFIG) as running:
        process = psutil.Process(running.pid)
        assert eventually(lambda: bool(raylets(process)) or running.poll() is not None, timeout=120)
        (raylet, *_) = raylets(process)
        running.send_signal(number)
        _, said = running.communicate(timeout=120)
        ray_has_its_own = number == signal.SIGTERM  # until the start goes on from `ray.init`
        assert running.returncode == 130 or (ray_has_its_own and running.returncode == number), said
        assert eventually(lambda: not raylet.is_running() or raylet.status() == psutil.STATUS_ZOMBIE)


def test_a_cluster_that_ends_finishes_its_answers_and_refuses_others() -> None:
    """Who asks meanwhile is told why; nothing but the address and the end is said in the terminal."""
    with started("--cfg-path", CONFIG) as running, httpx.Client(timeout=60) as client:
        assert running.stdout is not None
        url = running.stdout.readline().split()[3].removesuffix(".").removesuffix("/v1")
        body = {"model": MODEL, "messages": [first_message(1)], "temperature": 2, "max_tokens": 900, "stream": True}
        with client.stream("POST", f"{url}/v1/chat/completions", json=body) as answer:
            lines = answer.iter_lines()
            said = [next(lines)]
            running.send_signal(signal.SIGTERM)
            assert eventually(lambda: httpx.get(f"{url}/v1/models").status_code == 503)
            refused = httpx.get(f"{url}/v1/models").json()
            said += [line for line in lines if line]
        _, noise = running.communicate(timeout=120)
    assert refused["error"]["code"] == "server_stopping"
    assert said[-1] == "data: [DONE]"
    assert not any('"error"' in line for line in said)
    assert running.returncode == 0
    assert noise == "Stopping: answers that are being written may end; Ctrl+C stops at once.\n"
