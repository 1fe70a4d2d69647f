"""A peer's process, from the side that asks."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from benchmarks.peers.environments import PeerKind, PeerMissing, python_of
from benchmarks.peers.peer_process import Ids


class RunningPeer:
    """A peer that runs, with weights in one precision; `load` is the CPU time in which it was made, in seconds.

    Raises PeerMissing where it does not start or does not answer.
    """

    def __init__(self, peer: PeerKind, precision: str, weights: Path, folder: Path) -> None:
        self.name = peer.name
        own = weights.with_name(f"{weights.name}-{peer.name}")
        own.mkdir(parents=True, exist_ok=True)
        self._log = own / f"{precision}.log"
        command = [str(python_of(peer, folder)), "-m", peer.module, str(weights), str(own), precision]
        with self._log.open("w", encoding="utf-8") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
            )
        try:
            self.load = float(self._read()["load"])
        except BaseException:
            self.end()
            raise

    def ask(self, prompts: Sequence[Ids], new: int) -> tuple[float, list[Ids]]:
        """CPU seconds, and each prompt's new ids."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"prompts": prompts, "new": new}) + "\n")
        self._process.stdin.flush()
        found = self._read()
        return float(found["seconds"]), found["ids"]

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        if not (line := self._process.stdout.readline()):
            raise PeerMissing(f"{self.name} ended without an answer and is left out; its output is in {self._log}.")
        values: dict[str, Any] = json.loads(line)
        return values

    def __enter__(self) -> RunningPeer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def end(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()
