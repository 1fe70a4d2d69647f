"""A reverse proxy as nginx is one: it takes a prefix off the path, says who its client is, and passes all bytes on."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit

from tests.waiting import free_port


@contextmanager
def proxied(url: str, prefix: str, *, host: str) -> Iterator[str]:
    """The address at which the server of `url` is now found, too; for browsers it is https://HOST/PREFIX."""
    backend = urlsplit(url)
    port = free_port()
    listening = socket.create_server(("127.0.0.1", port))

    def pass_on(client: socket.socket, address: str) -> None:
        with client, socket.create_connection((str(backend.hostname), int(backend.port or 80))) as server:
            head = b""
            while b"\r\n\r\n" not in head:
                if not (part := client.recv(65536)):
                    return
                head += part
            head, _, body = head.partition(b"\r\n\r\n")
            first, *lines = head.decode("latin-1").split("\r\n")
            method, path, version = first.split(" ")
            kept = [line for line in lines if not line.lower().startswith(("host:", "connection:"))]
            chain = [line.partition(":")[2].strip() for line in kept if line.lower().startswith("x-forwarded-for:")]
            kept = [line for line in kept if not line.lower().startswith("x-forwarded-")]
            kept += [f"Host: {host}", "Connection: close", "X-Forwarded-Proto: https", f"X-Forwarded-Host: {host}"]
            kept += [f"X-Forwarded-For: {', '.join([*chain, address])}"]
            target = path.removeprefix(prefix) or "/"
            new = "\r\n".join([f"{method} {target} {version}", *kept, "", ""]).encode("latin-1")
            server.sendall(new + body)
            back = threading.Thread(target=pump, args=(client, server), daemon=True)
            back.start()
            pump(server, client)

    def pump(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while part := source.recv(65536):
                target.sendall(part.replace(b"; Secure", b""))  # for a client that comes without the TLS it would have
        with suppress(OSError):
            target.shutdown(socket.SHUT_WR)

    def accept() -> None:
        with suppress(OSError):
            while True:
                client, (address, _) = listening.accept()
                threading.Thread(target=pass_on, args=(client, address), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{port}{prefix}/"
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        thread.join()
