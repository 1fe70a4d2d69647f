"""Threads that load: each works on pieces of its own.

PyTorch's threads share every single operation and wait for each other in it, spinning. Beside other programs that took
five times the CPU time of one thread, and longer by the clock as well.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

_Piece = TypeVar("_Piece")
_HERE = threading.local()  # .pool: of a thread that is in `loading_threads`


@contextmanager
def loading_threads() -> Iterator[None]:
    """Within, `spread` has as many threads as PyTorch had, and PyTorch's operations in this thread have one."""
    count = torch.get_num_threads()
    if count == 1 or getattr(_HERE, "pool", None) is not None:
        yield
        return
    _take_one(count)
    try:
        with ThreadPoolExecutor(count, "loading", initializer=_take_one, initargs=(count,)) as pool:
            _HERE.pool = pool
            yield
    finally:
        _HERE.pool = None
        torch.set_num_threads(count)


def spread(work: Callable[[_Piece], object], pieces: Sequence[_Piece]) -> None:
    """Do `work` with each piece, in several threads within `loading_threads`; raises what it raises.

    The threads have PyTorch's defaults: gradients are recorded, unless `work` sees to it.
    """
    pool: ThreadPoolExecutor | None = getattr(_HERE, "pool", None)
    for _ in map(work, pieces) if pool is None or len(pieces) == 1 else pool.map(work, pieces):
        pass


def _take_one(others: int) -> None:
    """Let PyTorch's operations in this thread have one thread, and those of threads that begin later `others`."""
    torch.get_num_threads()  # a thread that never asked would later be given what is set for others
    torch.set_num_threads(1)  # of this thread, and of those that begin later
    later = threading.Thread(target=torch.set_num_threads, args=(others,))
    later.start()
    later.join()
