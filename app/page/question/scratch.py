"""Pictures as short-lived files, for parts of gradio that take nothing else. gradio copies them at once."""

from __future__ import annotations

import time
import uuid
from contextlib import suppress
from pathlib import Path

from PIL import Image

from models.disk import scratch_folder, written_whole

KEEP = 600.0  # seconds; gradio's own copies expire with the uploads


class ScratchFolder:
    """A private folder whose files are deleted a while after they were written, and all of them at the end."""

    def __init__(self) -> None:
        self._folder: Path | None = None

    def save(self, image: Image.Image, *, name: str = "image") -> Path:
        """Write a PNG and forget those that are older than KEEP. Raises DiskFull."""
        if self._folder is None:
            self._folder = scratch_folder("minivlm-chat-")
        for old in self._folder.glob("*.png"):
            with suppress(FileNotFoundError):  # for another visitor's picture it was deleted just now
                if time.time() - old.stat().st_mtime > KEEP:
                    old.unlink()
        path = self._folder / f"{name}-{uuid.uuid4().hex[:8]}.png"
        with written_whole(path) as partial:
            image.save(partial, "PNG", compress_level=1)
        return path
