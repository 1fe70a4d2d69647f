"""The sha256 of files of many gigabytes, computed once: a ledger remembers it for as long as a file is unchanged."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Callable
from pathlib import Path

_BLOCK = 2**22


class HashLedger:
    """Hashes of files by path, size and time of change. A folder that can't be written to is no hindrance."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def known(self, path: Path) -> str | None:
        """The sha256 of a file, if it has been computed since the file was last written."""
        hashes = self._read()
        return hashes.get(str(path.resolve()), {}).get(_state(path))

    def sha256(self, path: Path, on_bytes: Callable[[int], None] = lambda _: None) -> str:
        """The sha256 of a file in hex; `on_bytes` is given the size of each block that is read."""
        found = self.known(path)
        if found is None:
            found = sha256_of(path, on_bytes)
            self.remember(path, found)
        return found

    def remember(self, path: Path, sha256: str) -> None:
        """Note the hash of a file as it is now."""
        hashes = self._read() | {str(path.resolve()): {_state(path): sha256}}
        part = self._file.with_name(f"{self._file.name}.{os.getpid()}")
        with contextlib.suppress(OSError):
            part.write_text(json.dumps(hashes, indent=1), encoding="utf-8")
            part.replace(self._file)

    def _read(self) -> dict[str, dict[str, str]]:
        try:
            hashes = json.loads(self._file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return hashes if isinstance(hashes, dict) else {}


def _state(path: Path) -> str:
    status = path.stat()
    return f"{status.st_size} {status.st_mtime_ns}"


def sha256_of(path: Path, on_bytes: Callable[[int], None] = lambda _: None) -> str:
    """The sha256 of a file in hex, read in blocks."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
            on_bytes(len(block))
    return digest.hexdigest()


def git_blob_hash(path: Path) -> str:
    """The name that git gives a small file's content, which the hub publishes instead of a sha256."""
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def is_sha256(text: str | None) -> bool:
    """Whether a text is a sha256 in hex; a server's ETag may be anything."""
    return bool(text and re.fullmatch(r"[0-9a-f]{64}", text))


def is_git_hash(text: str) -> bool:
    """Whether a text is a name as git gives content; a mirror of the hub may list anything."""
    return bool(re.fullmatch(r"[0-9a-f]{40}", text))
