"""Memory that was freed, and is still the process's. Needs no torch."""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from typing import Any


def give_back_freed_memory() -> None:
    """Let the system have the memory that was freed between what is still in use, which C libraries keep for later.

    Tensors that stay and larger ones that are soon gone, in turn, leave gaps of which glibc gives none back by itself:
    of 24 merged matrices of 1280 x 1280, 0.8 GiB were in use where 0.2 were needed.
    """
    if (libc := c_library()) is not None and hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)


@cache
def c_library() -> Any:
    """The C library of a Linux program, None elsewhere."""
    return ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
