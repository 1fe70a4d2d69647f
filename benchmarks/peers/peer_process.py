"""How a peer is asked: one process for each, which reads prompts of token ids and writes greedy ones, line by line.

A process runs in the peer's own environment, so nothing here or in the peers' files needs more than numpy.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Protocol

Ids = list[int]


class Peer(Protocol):
    """What answers, greedily, with exactly `new` tokens for each prompt, all prompts at once."""

    def generate(self, prompts: Sequence[Ids], new: int) -> list[Ids]:
        """The new ids of each prompt."""


def serve(prepare: Callable[[], object], make: Callable[[], Peer]) -> None:
    """Prepare its files, make the peer and answer until nobody asks any more. Times: CPU seconds of the process."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is not an answer
    prepare()
    start = time.process_time()
    peer = make()
    print(json.dumps({"load": time.process_time() - start}), file=answers, flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        start = time.process_time()
        ids = peer.generate(asked["prompts"], asked["new"])
        print(json.dumps({"seconds": time.process_time() - start, "ids": ids}), file=answers, flush=True)
