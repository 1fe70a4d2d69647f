"""Files that are there whole or not at all, one line where the disk is full, folders for one run alone,
and JSON that is not read without end."""

from __future__ import annotations

import atexit
import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from models.errors import MiniVLMError

MAX_JSON = (
    64 * 2**20
)  # characters: the longest tokenizers have half of that, and a file can be of any size without bytes
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# safetensors, torch and copies of folders give no number; the last two are torch's for a file that takes no more.
_SAID = (
    "No space left on device",
    "File too large",
    "Disk quota exceeded",
    "os error 28",
    "os error 27",
    "PytorchStreamWriter failed",
    "unexpected pos ",
)


class DiskFull(MiniVLMError):
    """A file could not be written: there is no room."""


def is_disk_full(error: BaseException) -> bool:
    """Whether this is how a library says that there is no room on the disk."""
    if isinstance(error, OSError) and error.errno in _FULL:
        return True
    return isinstance(error, DiskFull) or any(said in str(error) for said in _SAID)


@contextmanager
def one_line_if_full(path: Path) -> Iterator[None]:
    """Writing `path` in the block raises DiskFull where there is no room; other errors stay what they are."""
    try:
        yield
    except Exception as error:
        if not is_disk_full(error) or isinstance(error, DiskFull):
            raise
        raise DiskFull(f"{path} can't be written: the disk is full. Make room and start again.") from error


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to; it takes its place at the end of the block, and is gone if that fails.

    Raises DiskFull where there is no room.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        with one_line_if_full(path):
            yield partial
            os.replace(partial, path)
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


_scratch: list[Path] = []
_is_ending = False


def scratch_folder(prefix: str, *, within: Path | None = None) -> Path:
    """A new folder that only this user can read, for as long as the program runs; in the system's, or `within`.

    Raises OSError once the program ends.
    """
    if not _scratch:
        atexit.register(delete_scratch)
    if within is not None:
        within.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=within))
    _scratch.append(folder)
    if _is_ending:  # looked at last: whoever ends the program now either finds the folder or is seen here
        shutil.rmtree(folder, ignore_errors=True)
        raise OSError("the program ends")
    return folder


def delete_scratch() -> None:
    """Delete those folders; where the program ends without its usual end, before that."""
    global _is_ending
    _is_ending = True
    for folder in list(_scratch):
        with suppress(OSError):
            folder = folder.rename(f"{folder}-gone")  # or a thread that still writes a file would keep it there
        shutil.rmtree(folder, ignore_errors=True)


def read_json(file: Path) -> Any:
    """What a JSON file of a checkpoint holds. Raises ValueError, RecursionError or OSError where that can't be told."""
    with file.open(encoding="utf-8-sig") as opened:  # editors on Windows put a mark in front
        text = opened.read(MAX_JSON + 1)
    if len(text) > MAX_JSON:
        raise ValueError(f"it is longer than {MAX_JSON:,} characters")
    return json.loads(text)
