"""Conversations whose page has gone, as files: they wait there for their page without taking memory.

The files are pickles in a folder that only this user can read. Nothing but what this process wrote is read from it.
"""

from __future__ import annotations

import gzip
import pickle
import secrets
from contextlib import suppress
from pathlib import Path
from typing import Any

from models.disk import scratch_folder

MAX_BYTES = 1 << 30
COMPRESSION = 1  # drawings become a tenth, photographs a third less, at 100 MB/s


class Shelf:
    """A folder of pickled objects, deleted at the end of the program."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self.max_bytes = max_bytes
        self._folder: Path | None = None

    def put(self, something: Any) -> Path:
        """Write it; the file. Raises OSError where that is not possible, and leaves nothing half-written."""
        if self._folder is None:
            self._folder = scratch_folder("minivlm-chat-")
        file = self._folder / secrets.token_hex(8)
        try:
            with gzip.open(file, "xb", compresslevel=COMPRESSION) as stream:
                pickle.dump(something, stream, protocol=pickle.HIGHEST_PROTOCOL)
        except BaseException:
            self.remove(file)
            raise
        return file

    def take(self, file: Path) -> Any:
        """What was put into this file, which is deleted. Raises OSError if it is gone."""
        with gzip.open(file) as stream:
            something = pickle.load(stream)
        self.remove(file)
        return something

    def remove(self, file: Path) -> None:
        """Delete it."""
        with suppress(OSError):
            file.unlink()
