"""A small server that speaks as much of the hub's protocol as downloads need, and can be told to misbehave.

`/api/models/ID[/revision/R]` and `…/tree/…` list files, `/ID/resolve/R/FILE` answers HEAD with what the hub answers
(commit, size, sha256) and sends GET to `/cdn/…`, as the hub does; the CDN knows Range and If-Range. `/web/FILE` is a
server that is no hub.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from huggingface_hub import constants

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE = 1024  # files from this size on are git-lfs files


@dataclass
class Hub:
    """The server's content and its misbehaviour, by "owner/name/file" (Spaces: "spaces/owner/name/file")."""

    files: dict[str, bytes] = field(default_factory=dict)
    sent: dict[str, bytes] = field(default_factory=dict)  # bytes that come instead of those that are announced
    cuts: dict[str, list[int]] = field(default_factory=dict)  # after how many bytes each of the next answers ends
    statuses: dict[str, list[int]] = field(default_factory=dict)  # of the next answers of the CDN
    waits: dict[str, str] = field(default_factory=lambda: {"Retry-After": "0"})  # headers beside them
    refused: dict[str, tuple[int, str]] = field(default_factory=dict)  # repository -> status and X-Error-Code
    pause: float = 0.0  # seconds between blocks of 1 KiB
    knows_ranges: bool = True
    etags: dict[str, str] = field(default_factory=dict)
    requests: list[tuple[str, str, str]] = field(default_factory=list)  # method, path, Range
    tokens: list[tuple[str, str | None]] = field(default_factory=list)  # path, Authorization
    address: str = ""

    @property
    def others(self) -> list[str]:
        """Paths of the hub's API that were asked for and have nothing to do with a repository's files."""
        return [path for _, path, _ in self.requests if re.match(r"/api/(?!(models|spaces|datasets)/)", path)]

    @property
    def cdn(self) -> str:
        """The same server under another name: the client follows redirects within one host by itself."""
        return self.address.replace("127.0.0.1", "localhost")

    def downloads(self, name: str) -> list[str]:
        """The Range of each request to the CDN for a file, "" where it had none."""
        return [wanted for method, path, wanted in self.requests if method == "GET" and path == f"/cdn/{name}"]


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def git_hash(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """Answers as the hub and its CDN do, except where `hub` says otherwise."""

    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        self.hub.requests.append((self.command, path, self.headers.get("Range") or ""))
        self.hub.tokens.append((path, self.headers.get("Authorization")))
        if path.startswith("/api/"):
            return self.answer_api(path)
        if path.startswith("/cdn/"):
            return self.answer_bytes(path.removeprefix("/cdn/"))
        if path.startswith("/web/"):
            return self.answer_bytes(path.removeprefix("/web/"))
        return self.answer_resolve(path.strip("/"))

    def answer_api(self, path: str) -> None:
        if path in self.hub.others:
            return self.reply(404, {}, b"{}")
        kind, name = re.match(r"/api/(models|spaces|datasets)/([^/]+/[^/]+)", path).groups()  # type: ignore[union-attr]
        repository = name if kind == "models" else f"{kind}/{name}"
        if self.refuse(repository):
            return None
        files = {key: data for key, data in self.hub.files.items() if key.startswith(f"{repository}/")}
        if not files:
            return self.reply(404, {"X-Error-Code": "RepoNotFound"}, b"{}")
        names = {key.removeprefix(f"{repository}/"): data for key, data in files.items()}
        if "/tree/" in path:
            return self.reply(200, {}, json.dumps([tree_entry(n, data) for n, data in names.items()]).encode())
        info = {"id": name, "sha": COMMIT, "siblings": [{"rfilename": n} for n in names]}
        return self.reply(200, {}, json.dumps(info).encode())

    def answer_resolve(self, path: str) -> None:
        before, _, after = path.partition("/resolve/")
        name = f"{before}/{after.partition('/')[2]}"
        if self.refuse(before):
            return None
        if name not in self.hub.files:
            code = "EntryNotFound" if any(key.startswith(f"{before}/") for key in self.hub.files) else "RepoNotFound"
            return self.reply(404, {"X-Error-Code": code, "X-Repo-Commit": COMMIT}, b"")
        data = self.hub.files[name]
        headers = {"X-Repo-Commit": COMMIT, "X-Linked-Size": str(len(data))}
        if len(data) < LARGE:
            return self.reply(200, {**headers, "ETag": f'"{git_hash(data)}"'}, self.hub.sent.get(name, data))
        headers |= {"X-Linked-Etag": f'"{sha256(data)}"', "Location": f"{self.hub.cdn}/cdn/{name}"}
        return self.reply(302, headers, b"")

    def refuse(self, repository: str) -> bool:
        if repository not in self.hub.refused:
            return False
        status, code = self.hub.refused[repository]
        self.reply(status, {"X-Error-Code": code} if code else {}, b"{}")
        return True

    def answer_bytes(self, name: str) -> None:
        if self.command == "GET" and self.hub.statuses.get(name):
            return self.reply(self.hub.statuses[name].pop(0), self.hub.waits, b"later")
        if name not in self.hub.files:
            return self.reply(404, {}, b"")
        data = self.hub.sent.get(name, self.hub.files[name])
        etag = self.hub.etags.get(name, f'"{sha256(data)[:12]}"')
        start, status = 0, 200
        match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        if match and self.hub.knows_ranges and self.headers.get("If-Range", etag) == etag:
            start, status = int(match[1]), 206
        if start >= len(data) and status == 206:
            return self.reply(416, {"Content-Range": f"bytes */{len(data)}"}, b"")
        headers = {"ETag": etag, "Content-Length": str(len(data) - start)}
        if status == 206:
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        self.head(status, headers)
        if self.command == "GET":
            self.send_blocks(data[start:], self.hub.cuts[name].pop(0) if self.hub.cuts.get(name) else None)
        return None

    def send_blocks(self, data: bytes, cut: int | None) -> None:
        for begin in range(0, len(data), 1024):
            block = data[begin : begin + 1024]
            if cut is not None and begin + len(block) > cut:
                self.wfile.write(block[: cut - begin])
                self.close_connection = True
                return self.wfile.flush()
            self.wfile.write(block)
            if self.hub.pause:
                self.wfile.flush()
                time.sleep(self.hub.pause)
        return None

    def reply(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.head(status, {"Content-Length": str(len(body)), "Content-Type": "application/json", **headers})
        if self.command == "GET":
            self.wfile.write(body)

    def head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Quiet."""

    def handle(self) -> None:
        try:
            super().handle()
        except ConnectionError:  # the client went away
            self.close_connection = True


def tree_entry(name: str, data: bytes) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "path": name, "size": len(data), "oid": git_hash(data)}
    if len(data) >= LARGE:
        entry["lfs"] = {"oid": sha256(data), "size": len(data), "pointerSize": 130}
    return entry


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """The hub at `hub.address`."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("HandlerOfHub", (Handler,), {"hub": hub}))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    hub.address = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def use_hub(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Send the real client's requests to this address."""
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
