"""Programs in processes of their own that find each other as torchrun's do.

What torchrun and accelerate themselves do is tested in stages/test_launchers.py.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from tests.paths import ROOT
from tests.waiting import free_port


def run_in_ranks(
    python: Sequence[str],
    module: str,
    arguments: Sequence[str],
    folder: Path,
    *,
    count: int = 2,
    environment: Mapping[str, str] | None = None,
) -> None:
    """Run `python -m module` in so many processes that talk over gloo; logs go to the folder.

    Fails with what they said as soon as one of them does.
    """
    port = str(free_port())
    logs = [folder / f"rank-{rank}.log" for rank in range(count)]
    processes: list[subprocess.Popen[bytes]] = []
    with ExitStack() as stack:
        for rank, log in enumerate(logs):
            variables = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
            named = {name: str(value) for name, value in variables.items()} if count > 1 else {}
            named |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, **(environment or {})}
            file = stack.enter_context(log.open("w"))
            command = [*python, "-m", module, *arguments]
            process = subprocess.Popen(command, cwd=ROOT, env=os.environ | named, stdout=file, stderr=subprocess.STDOUT)
            processes.append(stack.enter_context(process))
            stack.callback(process.kill)
        while None in (codes := [process.poll() for process in processes]):
            if any(codes):
                break
            time.sleep(0.05)
    said = "\n".join(f"{log.name}:\n{log.read_text()}" for log in logs)
    assert [process.returncode for process in processes] == [0] * count, said
