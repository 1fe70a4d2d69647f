"""A ready Python is a Python: arguments, environment, streams, exit status, signals."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

ENDLESS = "import time\nprint(flush=True)\ntime.sleep(600)"


def test_a_program_is_given_what_it_was_started_with(python: list[str], tmp_path: Path) -> None:
    (tmp_path / "here.py").write_text("import sys\nprint(__name__, sys.argv)\n")
    (tmp_path / "other.py").write_text("import os, sys, here\nprint(input(), os.environ['MINE'])\nsys.exit(3)")
    environment = os.environ | {"MINE": "own"}
    for program in (["-m", "other"], ["other.py"]):
        done = subprocess.run(
            [*python, *program, "a b"], cwd=tmp_path, env=environment, input="typed\n", capture_output=True, text=True
        )
        assert done.stdout.splitlines()[0].startswith("here ['")
        assert "other.py', 'a b']" in done.stdout
        assert (done.stdout.splitlines()[1:], done.returncode, done.stderr) == (["typed own"], 3, "")
    done = subprocess.run([*python, "-c", "1 / 0"], capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("", 1)
    assert done.stderr.splitlines()[-1] == "ZeroDivisionError: division by zero"


def test_nothing_of_the_project_is_there_before(python: list[str]) -> None:
    code = "import sys; print({'app', 'models', 'tests', 'gradio', 'bitsandbytes'} & set(sys.modules))"
    assert subprocess.run([*python, "-c", code], capture_output=True, text=True).stdout == "set()\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_signal_reaches_the_program(number: signal.Signals, python: list[str]) -> None:
    command = [*python, "-c", ENDLESS]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(number)
        _, errors = process.communicate()  # ends when the program has closed its streams
    assert process.returncode == -number
    assert ("KeyboardInterrupt" in errors) == (number == signal.SIGINT)
