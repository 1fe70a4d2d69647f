"""The command line: what it prints, how it fails, and that the page really comes up."""

from __future__ import annotations

import json
import logging
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
from starlette.requests import ClientDisconnect

import demo
from app import launch
from models.errors import RequestError

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A copy of the bundled model's YAML in a folder of its own."""
    path = tmp_path / "copy.yaml"
    path.write_text(launch.DEFAULT_CONFIG.read_text(encoding="utf-8"), encoding="utf-8")
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
    assert {Path(name).name for name in blocks} == {path.name for path in launch.CONFIG_DIR.glob("*.yaml")}
    bundled = next(block for name, block in blocks.items() if Path(name).name == "tiny_minigpt_v2.yaml")
    assert "[ready]" in bundled
    assert "missing" not in bundled
    released = next(block for name, block in blocks.items() if Path(name).name == "minigpt_v2.yaml")
    assert "[files missing]" in released
    assert "meta-llama/Llama-2-7b-chat-hf" in released
    from_the_hub = next(block for name, block in blocks.items() if Path(name).name == "mgm_2b.yaml")
    assert "[will be downloaded]" in from_the_hub


def test_list_may_be_cut_short() -> None:
    done = subprocess.run(
        ["sh", "-c", f"{sys.executable} demo.py --list | true"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.stderr == ""


def test_list_survives_a_broken_config(tmp_path: Path, config: Path) -> None:
    (tmp_path / "broken.yaml").write_text("family: [", encoding="utf-8")
    text = launch.describe_configs(tmp_path)
    assert "broken.yaml\n  error: " in text
    assert "copy.yaml  [" in text
    assert launch.describe_configs(tmp_path / "nowhere").startswith("No configurations in ")


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
        (["--nonsense"], "--nonsense"),
    ],
)
def test_a_wrong_argument_is_one_line(argv: list[str], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert expected in failing(argv, capsys)


def test_a_taken_port_is_told_before_the_model_loads(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"127.0.0.1:{port}" in failing(["--port", str(port)], capsys)
        with pytest.raises(RequestError, match="another --port"):
            launch.free_port("127.0.0.1", port)


def test_answers_to_a_file_are_all_that_stdout_gets(tmp_path: Path) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_text('{"question": "Hello!"}\n{"question": "How are you?"}\n')
    done = subprocess.run(
        [sys.executable, "demo.py", "--ask", str(path), "--options", "sampling.max_new_tokens=2"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert [json.loads(line)["question"] for line in done.stdout.splitlines()] == ["Hello!", "How are you?"]
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
    message = failing([*argv, "--options", option], capsys)
    assert expected in message
    assert "tiny_minigpt_v2.yaml" in message
    assert not loaded.called


def test_a_missing_extra_is_told_before_the_model_loads(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = Mock()
    monkeypatch.setattr("models.loader.load_model", loaded)
    monkeypatch.setattr("app.ocr.TextReader.is_installed", lambda: False)
    config = "eval_configs/tiny_mini_gemini.yaml"
    assert 'pip install -e ".[ocr]"' in failing(["--port", "0", "--cfg-path", config, "--ocr"], capsys)
    assert not loaded.called


@pytest.mark.parametrize("argv", [["--port", "0"], ["--terminal"]])
def test_a_context_too_short_for_any_question_is_told(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert "context_tokens is 10, but" in failing([*argv, "--options", "context_tokens=10"], capsys)


def test_a_visitor_who_left_is_no_traceback() -> None:
    def record(error: Exception) -> logging.LogRecord:
        details = (type(error), error, None)
        return logging.LogRecord("uvicorn.error", logging.ERROR, "", 0, "Exception in ASGI application", None, details)

    assert not launch.is_worth_a_line(record(ClientDisconnect()))
    assert launch.is_worth_a_line(record(ValueError("a bug")))


def test_arguments_reach_the_model_and_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    options = ["--options", "a.b=1", "c=2", "--options", "d=3"]
    args = launch.parse_arguments(["--gpu-id", "1", *options, "--auth", "me:se:cret", "--share"])
    assert (args.device, args.options, args.auth) == ("cuda:1", ["a.b=1", "c=2", "d=3"], ("me", "se:cret"))
    plain = launch.parse_arguments([])
    assert (plain.cfg_path, plain.options, plain.share, plain.auth) == (launch.DEFAULT_CONFIG, [], False, None)
    assert (plain.host, plain.port) == ("127.0.0.1", 7860)
    for name, value in (("SERVER_NAME", "0.0.0.0"), ("SERVER_PORT", "1234")):
        monkeypatch.setenv(f"GRADIO_{name}", value)
    monkeypatch.setenv("MINIVLM_CFG_PATH", "other.yaml")
    hosted = launch.parse_arguments([])
    assert (hosted.host, hosted.port, hosted.cfg_path) == ("0.0.0.0", 1234, Path("other.yaml"))


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> str:
        raise ZeroDivisionError

    monkeypatch.setattr(launch, "describe_configs", broken)
    with pytest.raises(ZeroDivisionError):
        demo.main(["--list"])


@pytest.fixture
def server() -> Iterator[subprocess.Popen[str]]:
    """`python demo.py` on a free port; killed at the end, whatever happened."""
    process = subprocess.Popen(
        [sys.executable, "demo.py", "--port", "0"],
        cwd=ROOT,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    watchdog = threading.Timer(180, process.kill)
    watchdog.start()
    yield process
    watchdog.cancel()
    process.kill()
    process.communicate()


@pytest.mark.slow
def test_the_bundled_model_comes_up_and_stops(server: subprocess.Popen[str]) -> None:
    assert server.stdout is not None
    output = ""
    while not (url := re.search(r"http://127\.0\.0\.1:\d+", output)):
        line = server.stdout.readline()
        assert line, f"demo.py ended: {output}"
        output += line
    with urllib.request.urlopen(url[0], timeout=30) as answer:
        assert answer.status == 200
        assert "MiniVLM Chat" in answer.read().decode()
    server.send_signal(signal.SIGINT)
    rest = server.communicate(timeout=30)[0]
    assert server.returncode == 130
    assert "Traceback" not in output + rest
