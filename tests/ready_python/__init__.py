"""A Python that has imported the large libraries already, for tests that need a program in a process of its own.

    subprocess.run([*python, "-m", "training", "--cfg-path", "x.yaml"], cwd=ROOT, ...)

is `python -m training …` without the four seconds that importing torch and transformers takes. A server (server.py),
one for each process of pytest and started for the first that needs it, has imported them; what is run is a fork of it,
and the process that the test holds (client.py) stands for it: it has its output, its exit status and its end, and a
signal for the one reaches the other.

Nothing of this project is imported before, so that the program takes it from its own working folder; nor is what a test
wants to see imported: gradio, which reads its environment then, and bitsandbytes.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).parent


@contextmanager
def ready_python() -> Iterator[list[str]]:
    """How a command begins that is run by such a Python; a plain one where there is no fork."""
    if not hasattr(os, "fork"):
        yield [sys.executable]
        return
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as listener:
        path = f"{folder}/socket"
        listener.bind(path)
        listener.listen(64)
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        command = [sys.executable, str(HERE / "server.py"), str(listener.fileno())]
        with subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, pass_fds=[listener.fileno()]
        ):
            listener.close()  # so that nobody waits for a server that has failed
            # Leaving closes its stdin, which ends it and all that it runs.
            yield [sys.executable, "-IS", str(HERE / "client.py"), path]
