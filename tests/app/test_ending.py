"""Signals end the server once; what runs is waited for, up to a limit."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.error import HTTPError

import pytest
from PIL import Image

from app.ending import Ending
from tests.app.slow_server import LOOKS
from tests.paths import ROOT


@pytest.fixture
def signals() -> Iterator[None]:
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_one_signal_ends_the_wait(signals: None, number: signal.Signals) -> None:
    ending = Ending(0)
    os.kill(os.getpid(), number)
    ending.wait(lambda: pytest.fail("it looked again instead of ending"))


def test_what_runs_is_waited_for(signals: None) -> None:
    left = [True, True, False]
    assert Ending(60).let_finish(lambda: left.pop(0))
    assert left == []
    assert not Ending(0).let_finish(lambda: True)


def test_a_second_ctrl_c_ends_at_once_and_leaves_nothing(tmp_path: Path) -> None:
    code = (
        "import os, signal\nfrom app.ending import Ending\nfrom models.disk import scratch_folder\n"
        "(scratch_folder('uploads-') / 'picture').touch()\nending = Ending(600)\n"
        "os.kill(os.getpid(), signal.SIGINT)\nending.wait(lambda: None)\n"
        "os.kill(os.getpid(), signal.SIGINT)\nending.let_finish(lambda: True)\n"
    )
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    assert subprocess.run([sys.executable, "-c", code], timeout=120, env=environment).returncode == 130
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_in_the_middle_of_an_import_is_one_line(tmp_path: Path) -> None:
    """transformers makes another error of an exception in one of its modules, and torch a call of std::terminate."""
    (tmp_path / "library.py").write_text(
        "import os, signal\ntry:\n    os.kill(os.getpid(), signal.SIGINT)\n"
        "except BaseException as error:\n    raise ModuleNotFoundError('library') from error\n"
    )
    code = (
        "import app.launch_elsewhere, demo\n"
        "def load(_):\n    import library\n"
        "demo.serve_elsewhere = load\ndemo.main([])"
    )
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env=environment)
    assert (done.returncode, done.stderr) == (130, "\nStopped.\n")


def test_sigterm_while_it_starts_leaves_nothing(tmp_path: Path) -> None:
    """Between the folder for uploads and the server there are seconds; a service that is restarted meets them."""
    code = (
        "import os, signal, demo\nfrom models.disk import scratch_folder\ndef load(_):\n"
        "    (scratch_folder('uploads-') / 'picture').touch()\n    os.kill(os.getpid(), signal.SIGTERM)\n"
        "demo.serve_elsewhere = load\ndemo.main([])"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env=environment)
    assert (done.returncode, done.stderr) == (-signal.SIGTERM, "")
    assert list(tmp_path.iterdir()) == []


def test_a_thread_that_hangs_does_not_keep_the_program(tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    code = (
        "import atexit, os, shutil, signal, sys, threading, time\nfrom app.ending import Ending\n"
        "atexit.register(shutil.rmtree, sys.argv[1])\n"
        "threading.Thread(target=time.sleep, args=(600,)).start()\nending = Ending(0)\n"
        "os.kill(os.getpid(), signal.SIGTERM)\nending.wait(lambda: None)\nending.close_within(0.1)\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(scratch)], timeout=120).returncode == 0
    assert not scratch.exists()


@pytest.fixture
def slow_server(python: list[str]) -> Iterator[subprocess.Popen[str]]:
    """tests/app/slow_server.py without a time of grace; killed at the end, whatever happened."""
    process = subprocess.Popen(
        [*python, "-m", "tests.app.slow_server", "--port", "0", "--grace", "0"],
        cwd=ROOT,
        env=os.environ | {"PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    watchdog = threading.Timer(280, process.kill)  # ends a test that hangs, before the whole run is ended for it
    watchdog.start()
    with process:
        yield process
        watchdog.cancel()
        process.kill()


def lines_until(process: subprocess.Popen[str], end: str) -> str:
    """What a program says up to this."""
    assert process.stdout is not None
    output = ""
    while end not in output:
        line = process.stdout.readline()
        assert line, f"it ended: {output}"
        output += line
    return output


def status_of_question(url: str, color: str) -> tuple[int, str]:
    """What a client is told that asks about a picture of this color: the status and the body."""
    file = io.BytesIO()
    Image.new("RGB", (64, 64), color).save(file, "png")
    picture = {"url": f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"}
    content = [{"type": "text", "text": "What is it?"}, {"type": "image_url", "image_url": picture}]
    question = {"model": "tiny_minigpt_v2", "messages": [{"role": "user", "content": content}]}
    request = urllib.request.Request(
        f"{url}/v1/chat/completions", json.dumps(question).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, answer.read().decode()
    except HTTPError as error:
        return error.code, error.read().decode()


@pytest.mark.slow
def test_answers_that_are_left_after_the_grace_are_a_line(slow_server: subprocess.Popen[str]) -> None:
    """No traceback for each, and no abort: their threads are in the middle of an operation when the program ends.

    Until then no collection of garbage holds up everybody by looking at all 166,000 objects of the server.
    """
    output = lines_until(slow_server, "Programs ask")
    url = re.search(r"http://127\.0\.0\.1:\d+", output)
    assert url
    with ThreadPoolExecutor(1) as pool:
        told = pool.submit(status_of_question, url[0], "red")
        output += lines_until(slow_server, LOOKS)
        slow_server.send_signal(signal.SIGTERM)
        output += slow_server.communicate()[0]
        status, body = told.result()
    assert slow_server.returncode == 0, output
    assert "Some answers did not end within 0" in output
    for unwanted in ("Traceback", "terminate called", "ERROR"):
        assert unwanted not in output
    assert (status, json.loads(body)["error"]["code"]) == (503, "server_stopping")
    looked_at = re.search(r"looks at (\d+) objects", output)
    assert looked_at
    assert int(looked_at[1]) < 20_000


def test_a_closed_terminal_ends_it_in_order(tmp_path: Path) -> None:
    """It left the pictures of all visitors in the folder for temporary files."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    code = (
        "import atexit, os, shutil, signal, sys\nfrom app.ending import Ending\n"
        "signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"  # whatever nohup these tests may run under
        "atexit.register(shutil.rmtree, sys.argv[1])\nending = Ending(0)\nprint('ready', flush=True)\n"
        "sys.stdin.read()\nos.kill(os.getpid(), signal.SIGHUP)\nending.wait(lambda: None)\n"
        "print('Stopping', file=sys.stderr, flush=True)\n"
    )
    terminal, its_program = os.openpty()
    command = [sys.executable, "-c", code, str(scratch)]
    program = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=its_program, text=True)
    lines_until(program, "ready")
    os.close(its_program)
    os.close(terminal)
    program.communicate(timeout=120)
    assert program.returncode == 0
    assert not scratch.exists()


def test_nohup_keeps_it_going(signals: None) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    Ending(0)
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
