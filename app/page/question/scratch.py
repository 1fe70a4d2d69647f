"""Pictures as short-lived files, for parts of gradio that take nothing else."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from gradio.utils import get_upload_folder
from PIL import Image

from app.page.long_work import LongWork
from models.disk import scratch_folder, written_whole

KEEP = 600.0  # seconds
MOST_BYTES = 512 * 2**20  # of all files; the oldest go first
SMALL = 2_000_000  # pixels: a larger picture is not compressed, which would take seconds


class ScratchFolder:
    """A private folder whose files are deleted a while after they were written, and all of them at the end.

    It lies where uploads do: gradio would copy a file from elsewhere, and reads it for that while everybody waits.
    """

    def __init__(self, max_bytes: int = MOST_BYTES) -> None:
        self._max_bytes = max_bytes
        self._folder: Path | None = None
        self._work = LongWork()

    def save(self, make: Callable[[], Image.Image], *, name: str = "image") -> Path:
        """Write the picture that `make` gives as PNG, by turns, and forget those that are old, or too many.

        Raises DiskFull.
        """
        with self._work.turn():
            image = make()
            if self._folder is None:
                self._folder = scratch_folder("minivlm-chat-", within=Path(get_upload_folder()))
            path = self._folder / f"{name}-{uuid.uuid4().hex[:8]}.png"
            with written_whole(path) as partial:
                image.save(partial, "PNG", compress_level=1 if image.width * image.height <= SMALL else 0)
            self._tidy(self._folder, path)
        return path

    def _tidy(self, folder: Path, newest: Path) -> None:
        found = []
        for file in folder.glob("*.png"):
            with suppress(FileNotFoundError):  # the folder of uploads was tidied just now
                stat = file.stat()
                found.append((stat.st_mtime, stat.st_size, file))
        total = sum(size for _, size, _ in found)
        for written, size, file in sorted(found):
            if file != newest and (time.time() - written > KEEP or total > self._max_bytes):
                file.unlink(missing_ok=True)
                total -= size
