"""Programs in processes of their own that find each other as torchrun's do, without importing all libraries anew.

They are forked from a server that has imported them once: that, not the training, is most of what a tiny run costs.
What torchrun and accelerate themselves do is tested in stages/test_launchers.py.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import sys
from collections.abc import Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

from tests.waiting import free_port

PRELOADED = ["training.train", "tests.training.tiny.tiny_steps"]


def run_in_ranks(
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
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    port = str(free_port())
    logs = [folder / f"rank-{rank}.log" for rank in range(count)]
    processes: list[BaseProcess] = []
    for rank, log in enumerate(logs):
        variables = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
        named = {name: str(value) for name, value in variables.items()} if count > 1 else {}
        named |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, **(environment or {})}
        processes.append(context.Process(target=_run, args=(module, list(arguments), named, log)))
    for process in processes:
        process.start()
    try:
        while any(process.is_alive() for process in processes):
            if any(process.exitcode for process in processes):
                break
            for process in processes:
                process.join(0.05)
    finally:
        for process in processes:
            process.kill()
            process.join()
    said = "\n".join(f"{log.name}:\n{log.read_text()}" for log in logs if log.exists())
    assert [process.exitcode for process in processes] == [0] * count, said


def _run(module: str, arguments: list[str], environment: Mapping[str, str], log: Path) -> None:
    os.environ.update(environment)
    with log.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
