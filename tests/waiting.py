"""Waiting for what another thread or process brings about, and a port for it to be found at."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable


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
