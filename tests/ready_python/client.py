"""Stands for a program that the server runs: `python client.py SOCKET (-m MODULE | -c CODE | FILE) [ARGUMENT …]`.

It is started for every program, so it imports next to nothing.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from types import FrameType


def main(path: str, argv: list[str]) -> int:
    """Its exit status; minus the number of the signal that ended it."""
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(path)
        request = {"argv": argv, "folder": os.getcwd(), "environment": dict(os.environ)}
        message = json.dumps(request).encode()
        socket.send_fds(server, [len(message).to_bytes(4, "big")], [0, 1, 2])
        server.sendall(message)

        def pass_on(number: int, _: FrameType | None) -> None:
            server.send(bytes([number]))

        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, pass_on)
        status = server.recv(2)
    if len(status) < 2:
        sys.exit("the server of ready Pythons has ended")
    return int.from_bytes(status, "big", signed=True)


if __name__ == "__main__":
    code = main(sys.argv[1], sys.argv[2:])
    if code < 0:
        signal.signal(-code, signal.SIG_DFL) if -code not in (signal.SIGKILL, signal.SIGSTOP) else None
        os.kill(os.getpid(), -code)
    sys.exit(code)
