"""Waiting for what another thread, process or event loop brings about, and a port for it to be found at."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")


def apart(do: Callable[[], T]) -> T:
    """What `do` gives in a thread of its own: where a browser was driven before, this one has a running event loop."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(do).result()


def in_a_loop(coroutine: Coroutine[Any, Any, T]) -> T:
    """What a coroutine gives, in an event loop of its own."""
    return apart(lambda: asyncio.run(coroutine))


def eventually(condition: Callable[[], bool], *, timeout: float = 20) -> bool:
    """Whether a condition that another thread brings about comes true; the time limit only ends a failing test."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return condition()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])
