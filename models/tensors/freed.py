"""Memory that was freed, and is still the process's. Needs no torch."""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from typing import Any

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


def give_back_freed_memory() -> None:
    """Let the system have the memory that was freed between what is still in use, which C libraries keep for later.

    Tensors that stay and larger ones that are soon gone, in turn, leave gaps of which glibc gives none back by itself:
    of 24 merged matrices of 1280 x 1280, 0.8 GiB were in use where 0.2 were needed.
    """
    if (libc := c_library()) is not None and hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)


def keep_some_freed_memory() -> None:
    """Let glibc keep up to 64 MiB for later, as each step of a model takes and frees as much.

    Otherwise it depends on what came before whether it gives such memory back and is given it anew, page by page: of a
    step of 40 tokens after 1,500 that was 40 %. `give_back_freed_memory` gives it back all the same.
    """
    if (libc := c_library()) is not None and hasattr(libc, "mallopt"):
        for setting, num_bytes in ((_MMAP_THRESHOLD, 2**25), (_TRIM_THRESHOLD, 2**26)):
            libc.mallopt(setting, num_bytes)


@cache
def c_library() -> Any:
    """The C library of a Linux program, None elsewhere."""
    return ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
