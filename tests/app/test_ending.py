"""Signals end the server once; what runs is waited for, up to a limit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.ending import Ending


@pytest.fixture
def signals() -> Iterator[None]:
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
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


def test_a_second_ctrl_c_ends_at_once() -> None:
    code = (
        "import os, signal\nfrom app.ending import Ending\nending = Ending(600)\n"
        "os.kill(os.getpid(), signal.SIGINT)\nending.wait(lambda: None)\n"
        "os.kill(os.getpid(), signal.SIGINT)\nending.let_finish(lambda: True)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 130


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
