"""The command line: what it prints, how it fails, and that the page really comes up."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import Mock

import pytest

import demo
from app import config_list
from app.arguments import DEFAULT_CONFIG
from models.command_line import CONFIG_DIR
from tests.paths import ROOT


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A copy of the bundled model's YAML in a folder of its own."""
    path = tmp_path / "copy.yaml"
    path.write_text(DEFAULT_CONFIG.read_text(encoding="utf-8"), encoding="utf-8")
    return path


def failing(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that a command fails with."""
    try:
        status: int | str | None = demo.main(argv)
    except SystemExit as stop:  # argparse
        status = stop.code
    lines = capsys.readouterr().err.splitlines()
    assert status == 2
    assert lines, "nothing on stderr"
    assert lines[-1].startswith("error: ")
    assert sum(line.startswith("error: ") for line in lines) == 1
    assert "Traceback" not in "".join(lines)
    return lines[-1]


@pytest.mark.parametrize(
    "option", ["--cfg-path", "--models-dir", "--feedback", "--output", "--ask", "--image", "--options"]
)
def test_a_name_that_no_file_can_have(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    name = "é" * 200  # 400 bytes
    line = failing([option, f"vision_tower={name}" if option == "--options" else name], capsys)
    assert "can't be used (File name too long)" in line


def modules_after(arguments: str) -> set[str]:
    """Top-level modules that are loaded once demo.py has run with these arguments, in a process of its own."""
    code = (
        "import contextlib, io, sys, demo\n"
        "with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):\n"
        f"    demo.main({arguments.split()!r})\n"
        "print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in done.stdout.split()}


@pytest.mark.parametrize("arguments", ["--help", "--version", "--port x"])
def test_answers_that_need_no_model_import_no_heavy_library(arguments: str) -> None:
    assert not modules_after(arguments) & {"torch", "transformers", "gradio", "PIL", "numpy"}


def test_list_imports_no_page() -> None:
    assert "gradio" not in modules_after("--list")


def test_version_is_that_of_the_project(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        demo.main(["--version"])
    assert stop.value.code == 0
    assert f'version = "{capsys.readouterr().out.split()[-1]}"' in (ROOT / "pyproject.toml").read_text()


def test_list_shows_every_config_and_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    assert demo.main(["--list"]) == 0
    blocks = {block.split()[0]: block for block in capsys.readouterr().out.split("\n\n")}
    assert {Path(name).name for name in blocks} == {path.name for path in CONFIG_DIR.glob("*.yaml")}
    bundled = next(block for name, block in blocks.items() if Path(name).name == "tiny_minigpt_v2.yaml")
    assert "[ready]" in bundled
    assert "missing" not in bundled
    released = next(block for name, block in blocks.items() if Path(name).name == "minigpt_v2.yaml")
    assert "[files missing]" in released
    assert "meta-llama/Llama-2-7b-chat-hf" in released
    assert "Fetch them: python -m models fetch eval_configs/minigpt_v2.yaml" in released
    from_the_hub = next(block for name, block in blocks.items() if Path(name).name == "mgm_2b.yaml")
    assert "[will be downloaded]" in from_the_hub


def test_a_download_shows_its_plan_and_says_what_it_could_not_get(capsys: pytest.CaptureFixture[str]) -> None:
    """Tests have no hub, so this is the plan, and the end."""
    assert demo.main(["--cfg-path", "eval_configs/minigpt_v2.yaml", "--download"]) == 2
    *plan, error = capsys.readouterr().err.splitlines()
    assert plan[0] == "MiniGPT-v2 needs:"
    assert not any("HF_HUB_OFFLINE" in line for line in plan)  # said once, at the end
    assert error.startswith("error: MiniGPT-v2 is not complete: ")
    assert "HF_HUB_OFFLINE is set" in error


def test_list_may_be_cut_short(python: list[str]) -> None:
    done = subprocess.run(
        ["sh", "-c", f"{' '.join(python)} demo.py --list | true"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.stderr == ""


def test_a_missing_config_lists_those_that_ship(capsys: pytest.CaptureFixture[str]) -> None:
    message = failing(["--cfg-path", "eval_configs/nothing.yaml"], capsys)
    assert "eval_configs/nothing.yaml not found" in message
    assert "tiny_minigpt_v2.yaml" in message


def test_an_unknown_key_is_named(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = failing(["--cfg-path", str(config), "--options", "chekpoint=x"], capsys)
    assert "unknown key 'chekpoint'" in message
    assert "checkpoint" in message


def test_a_missing_file_is_named(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "nowhere.pth" in failing(["--cfg-path", str(config), "--options", "checkpoint=nowhere.pth"], capsys)


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--gpu-id", "-1"], "--gpu-id"),
        (["--gpu-id", "0", "--device", "cpu"], "not allowed with"),
        (["--device", "gpu"], "'gpu' is not a device"),
        (["--dtype", "int3"], "--dtype"),
        (["--auth", "nobody"], "USER:PASSWORD"),
        (["--auth", ":secret"], "USER:PASSWORD"),
        (["--port", "80a"], "not a whole number"),
        (["--port", "70000"], "from 1 to 65535"),
        (["--host", "no.such.host.invalid"], "no.such.host.invalid"),
        (["--image", "x.png"], "--image is for --terminal"),
        (["--image", "x.png", "--ask", "x.jsonl"], "--image is for --terminal"),
        (["--output", "x.jsonl"], "--output is for --ask"),
        (["--nonsense"], "--nonsense"),
        (["--terminal", "--max-loaded", "2"], "are for the page"),
        (["--models-dir", "no/such/folder"], "--models-dir no/such/folder is not a folder"),
        (["--max-loaded", "1", *["--cfg-path", "eval_configs/tiny_moe_llava.yaml"] * 2], "is less than the 2"),
        (["--feedback", "."], "--feedback . can't be written"),
    ],
)
def test_a_wrong_argument_is_one_line(argv: list[str], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert expected in failing(argv, capsys)


def test_a_taken_port_is_told_before_the_model_loads(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"127.0.0.1:{port}" in failing(["--port", str(port)], capsys)


def test_answers_to_a_file_are_all_that_stdout_gets(python: list[str], tmp_path: Path) -> None:
    path = tmp_path / "questions.jsonl"
    image = str(ROOT / "app" / "page" / "assets" / "examples" / "bus.png")
    questions = ["Hello!", "How are you?"]
    path.write_text("\n".join(json.dumps({"question": text, "image": image}) for text in questions))
    done = subprocess.run(
        [*python, "demo.py", "--ask", str(path), "--options", "sampling.max_new_tokens=2"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert [json.loads(line)["question"] for line in done.stdout.splitlines()] == questions
    assert "MiB of weights" in done.stderr


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("sampling.top_p=3", "sampling: top_p is 3.0; it must be"),
        ("sampling.temperature=-1", "sampling: temperature is -1.0; it must be"),
        ("sampling.max_new_tokens=0", "sampling: max_new_tokens is 0; it must be"),
        ("sampling.repetition_penalty=-1", "sampling: repetition_penalty is -1.0; it must be"),
        ("sampling.seed=100000000000000000000000", "sampling: seed is 100000000000000000000000; it must be"),
    ],
)
@pytest.mark.parametrize("argv", [["--port", "0"], ["--terminal"]])
def test_settings_out_of_range_are_told_before_the_model_loads(
    argv: list[str], option: str, expected: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = Mock()
    monkeypatch.setattr("models.loader.load_model", loaded)
    monkeypatch.setattr("app.launch.make_library", loaded)
    message = failing([*argv, "--options", option], capsys)
    assert expected in message
    assert "tiny_minigpt_v2.yaml" in message
    assert not loaded.called


def test_files_are_looked_at_before_the_model_loads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = Mock()
    monkeypatch.setattr("models.loader.load_model", loaded)
    (tmp_path / "empty.jsonl").write_text("\n")
    assert "gone.jsonl can't be read" in failing(["--ask", str(tmp_path / "gone.jsonl")], capsys)
    assert "empty.jsonl holds no question" in failing(["--ask", str(tmp_path / "empty.jsonl")], capsys)
    assert "gone.png can't be read" in failing(["--terminal", "--image", str(tmp_path / "gone.png")], capsys)
    assert not loaded.called


def test_a_missing_extra_is_told_before_the_model_loads(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = Mock()
    monkeypatch.setattr("models.loader.load_model", loaded)
    monkeypatch.setattr("app.launch.make_library", loaded)
    monkeypatch.setattr("app.extras.ocr.TextReader.is_installed", lambda: False)
    config = "eval_configs/tiny_mini_gemini.yaml"
    assert 'pip install -e ".[ocr]"' in failing(
        ["--port", "0", "--cfg-path", config, "--ocr", "--options", "trained_with_extras=true"], capsys
    )
    assert not loaded.called


@pytest.mark.parametrize("argv", [["--port", "0"], ["--terminal"]])
def test_a_context_too_short_for_any_question_is_told(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert "context_tokens is 10, but" in failing([*argv, "--options", "context_tokens=10"], capsys)


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: object) -> str:
        raise ZeroDivisionError

    monkeypatch.setattr(config_list, "describe_configs", broken)
    with pytest.raises(ZeroDivisionError):
        demo.main(["--list"])


@pytest.fixture
def server(python: list[str]) -> Iterator[subprocess.Popen[str]]:
    """`python demo.py` on a free port; killed at the end, whatever happened."""
    process = subprocess.Popen(
        [*python, "demo.py", "--port", "0"],
        cwd=ROOT,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    watchdog = threading.Timer(280, process.kill)  # ends a test that hangs, before the whole run is ended for it
    watchdog.start()
    with process:  # waits for its end, and closes the pipe
        yield process
        watchdog.cancel()
        process.kill()


@pytest.mark.slow
def test_the_bundled_model_comes_up_and_stops(server: subprocess.Popen[str]) -> None:
    assert server.stdout is not None
    output = ""
    while not (url := re.search(r"http://127\.0\.0\.1:\d+", output)):
        line = server.stdout.readline()
        assert line, f"demo.py ended: {output}"
        output += line
    with urllib.request.urlopen(url[0]) as answer:
        assert answer.status == 200
        assert "MiniVLM Chat" in answer.read().decode()
    with urllib.request.urlopen(f"{url[0]}/v1/models") as answer:
        listed = [one["id"] for one in json.load(answer)["data"]]
    bundled = {path.stem for path in CONFIG_DIR.glob("tiny_*.yaml")}
    assert (listed[0], set(listed)) == ("tiny_minigpt_v2", bundled)
    server.send_signal(signal.SIGINT)
    rest = server.communicate()[0]
    assert server.returncode == 0
    assert "Traceback" not in output + rest
